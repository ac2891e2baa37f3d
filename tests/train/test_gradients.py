"""How a step's work is cut up: what devices exchange, and which cuts are refused."""

import dataclasses

import jax
import pytest
from support.quick_jit import OPTIONS

import pst_jax
from pst_jax.errors import UserError
from train.config import Config, DataConfig, ModelConfig
from train.planning.hlo_cost import read_program
from train.planning.hlo_text import parse
from train.setup import make_setup

CONFIG = Config(
  batch_size=32,
  eval_top_k=(0,),
  model=ModelConfig(name="resnet18", stem="small", width=0.125, batch_norm_group_size=2),
  data=DataConfig(dataset="synthetic", image_size=8),
)


def setup_of(devices, group_size=2, **fields):
  model = dataclasses.replace(CONFIG.model, batch_norm_group_size=group_size)
  config = dataclasses.replace(CONFIG, model=model, **fields)
  return make_setup(config, 10, 320, jax.devices()[:devices])


@pytest.fixture
def program_of(monkeypatch):
  """(setup) -> what a device does in a step."""
  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)

  def compiled(setup):
    step = setup.train_step.lower(setup.abstract_state, setup.abstract_batch).compile()
    return read_program(parse(step.as_text()))

  return compiled


def test_split_parameters_come_together_in_one_exchange(program_of):
  setup = setup_of(8, fsdp=4)
  gathered = [
    each for each, _ in program_of(setup).collectives if each.kind.startswith("all-gather")
  ]
  split = [
    leaf for leaf in jax.tree.leaves(setup.abstract_state.params) if "fsdp" in leaf.sharding.spec
  ]
  assert len(split) > 1
  assert len(gathered) == 1
  assert gathered[0].bytes == sum(leaf.size for leaf in split)  # a quarter of 4 bytes each


def test_devices_meet_once_a_step_whatever_the_depth_and_the_micro_batches(program_of):
  setup = setup_of(8, accumulation_steps=2)
  program = program_of(setup)
  assert {(each.kind, count) for each, count in program.collectives} == {("all-reduce", 1)}
  # What is summed: gradients, running statistics, the loss, its weight and the accuracy.
  state = setup.abstract_state
  numbers = sum(leaf.size for leaf in jax.tree.leaves([state.params, state.batch_stats])) + 3
  assert sum(each.bytes for each, _ in program.collectives) == 4 * numbers


@pytest.mark.parametrize(
  ("devices", "fields", "words"),
  [
    (8, {"accumulation_steps": 3}, "does not divide the 4 examples of a device"),
    (8, {"accumulation_steps": 4}, "sees 1 examples at a time, which BatchNorm groups of 2"),
    (1, {"accumulation_steps": 2, "group_size": None}, "set model.batch_norm_group_size to 16"),
    (
      8,
      {"accumulation_steps": 4, "group_size": 1, "data": DataConfig(mixup=0.1)},
      "sees 1 examples at a time, but data.mixup",
    ),
    (1, {"data": DataConfig(space_to_depth=True)}, "model.stem is 'small'"),
  ],
)
def test_a_cut_that_would_change_the_result_is_refused(devices, fields, words):
  with pytest.raises(UserError, match=words):
    setup_of(devices, **fields)
