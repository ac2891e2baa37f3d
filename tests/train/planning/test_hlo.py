"""Reading optimized HLO: sizes in memory, turns of loops, FLOPs, HBM traffic, collectives."""

import pytest
from support import hlo_texts

from train.planning.hlo_cost import read_program
from train.planning.hlo_text import parse


@pytest.fixture(scope="module")
def loop():
  return read_program(parse(hlo_texts.LOOP))


def operation(program, name):
  (found,) = [each for each in program.operations if each.name == name]
  return found


def test_a_loop_turns_as_often_as_its_counter_says(loop):
  assert operation(loop, "fusion.1").count == 4
  assert loop.unknown_loops == ()


def test_flops_in_a_loop_count_in_every_turn(loop):
  assert loop.total("matrix_flops") == 4 * 2 * 512 * 256 * 128


def test_of_a_batch_in_hbm_the_slice_that_a_turn_uses_is_read(loop):
  weights, one_batch = 256 * 128 * 2, 512 * 256 * 2
  assert operation(loop, "fusion.1").hbm_read == weights + one_batch


def test_what_stays_in_on_chip_memory_is_no_traffic(loop):
  assert operation(loop, "fusion.1").hbm_written == 0
  assert operation(loop, "sum").hbm_bytes == 0


def test_an_all_reduce_after_a_loop_counts_once(loop):
  ((collective, count),) = loop.collectives
  assert (collective.kind, collective.bytes, collective.group) == ("all-reduce", 512 * 128 * 2, 4)
  assert count == 1


def test_a_custom_kernel_with_notes_of_several_lines_is_read_and_not_free():
  program = read_program(parse(hlo_texts.KERNEL))
  (kernel,) = program.operations
  moved = 2 * 4 * 512 * 128 * 2
  assert (kernel.hbm_read, kernel.hbm_written, kernel.matrix_flops) == (moved, moved, 1_000_000)
  assert kernel.source == "jit(f)/pallas_call"
  assert program.kernels == [kernel]


def test_a_copy_that_is_started_early_inside_a_call_overlaps_too():
  called = (
    hlo_texts.PREFETCH.replace("ENTRY %main", "%inner")
    + """
ENTRY %main (p: f32[512,128]) -> f32[512,128] {
  %p = f32[512,128]{1,0:T(8,128)} parameter(0)
  ROOT %all = f32[512,128]{1,0:T(8,128)} call(%p), to_apply=%inner
}
"""
  )
  assert [each.overlaps for each in read_program(parse(called)).operations] == [True, False]


def test_a_copy_that_is_started_early_is_traffic_that_overlaps():
  copy, add = read_program(parse(hlo_texts.PREFETCH)).operations
  assert (copy.hbm_bytes, copy.overlaps) == (4 * 512 * 128, True)
  assert (add.hbm_bytes, add.overlaps) == (4 * 512 * 128, False)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("HloModule nothing", "no ENTRY computation"),
    ("ENTRY %main () -> s32[] {\n  ROOT %one = junk\n}\n", "cannot be read: ROOT %one = junk"),
  ],
)
def test_what_is_no_hlo_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    parse(text)
