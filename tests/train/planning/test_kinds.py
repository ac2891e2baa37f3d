"""What a step is made of, by kind of operation and direction."""

import dataclasses

import pytest
from support.hlo_texts import CONVOLUTIONS
from support.programs import ALL_REDUCE, operation, program

from train.planning.hlo_cost import read_program
from train.planning.hlo_text import parse
from train.planning.kinds import kinds
from train.planning.topologies import find_slice

V5E = find_slice("v5e:4x4")
NET = "jit(train_step)/jvp(Net)/Net.maps"
BACK = "jit(train_step)/transpose(jvp(Net))/Net.maps"


def kind_of(source, **fields):
  one = dataclasses.replace(operation(flops=fields.pop("flops", 0)), source=source, **fields)
  (found,) = kinds(program(one), V5E)
  return found.kind, found.direction


@pytest.mark.parametrize(
  ("source", "fields", "kind", "direction"),
  [
    (f"{NET}/backbone/stem/conv/conv", {"flops": 1, "window": "7x7"}, "stem", "forward"),
    (f"{BACK}/stage1/cv1/conv/conv", {"flops": 1, "window": "1x1"}, "1x1 convolutions", "backward"),
    (f"{NET}/pst/attn/q/conv/conv", {"flops": 1, "window": "1x1"}, "1x1 convolutions", "forward"),
    (f"{NET}/pst/attn/q/bn/mul", {}, "normalisation", "forward"),
    (f"{NET}/pst/attn/dot_general", {"flops": 1}, "attention", "forward"),
    (f"{BACK}/pst/attn/exp", {}, "attention", "backward"),
    (f"{NET}/pst/attn/pallas_call", {"flops": 1, "is_kernel": True}, "custom kernels", "forward"),
    (f"{BACK}/head/dot_general", {"flops": 1}, "matrix products", "backward"),
    (f"{NET}/stage1/add", {}, "other", "forward"),
    ("jit(train_step)/mul", {}, "optimizer and copies", ""),
    ("", {"overlaps": True}, "early copies", ""),
    ("jit(train_step)/psum", {"collectives": (ALL_REDUCE,)}, "collectives", ""),
  ],
)
def test_the_kind_and_the_direction_are_told_by_the_source(source, fields, kind, direction):
  assert kind_of(source, **fields) == (kind, direction)


def test_all_runs_of_a_kind_add_up_and_the_longest_kind_comes_first():
  short = operation("mul", read=1000, count=3)
  long = dataclasses.replace(operation(flops=197e9, count=2), source=f"{NET}/head/dot_general")
  first, second = kinds(program(short, long, short), V5E)
  assert (first.operations, first.seconds, first.matrix_flops) == (2, pytest.approx(2e-3), 394e9)
  assert (second.kind, second.operations, second.hbm_bytes) == ("optimizer and copies", 6, 6000)


def test_the_kernel_of_a_convolution_is_known_from_its_gradient_too():
  found = read_program(parse(CONVOLUTIONS)).operations
  assert [each.window for each in found] == ["3x3", "3x3"]
