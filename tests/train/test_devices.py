"""The number of devices and of micro-batches changes nothing but rounding: float64 shows it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support.quick_jit import STEP_OPTIONS

import pst_jax
from train.config import Config, DataConfig, ModelConfig, OptimConfig
from train.data import train_batches
from train.evaluation.evaluator import evaluate
from train.setup import make_setup
from train.sharding import put_batch
from train.tasks.classification.data import open_dataset

# Small enough for seconds, wide enough that fsdp splits some kernels.
CONFIG = Config(
  epochs=3,
  batch_size=16,
  eval_batch_size=12,
  eval_top_k=(0, 2),
  label_smoothing=0.1,
  ema_decay=0.9,
  model=ModelConfig(name="shallow_pst", stem="small", width=0.5, dropout=0.1, dtype="float64"),
  data=DataConfig(
    dataset="synthetic",
    synthetic_examples=37,
    synthetic_classes=10,
    image_size=16,
    crop="none",
    eval_crop=1.0,
    erasing=0.5,
    mixup=0.2,
    cutmix=1.0,
    threads=1,
  ),
  optim=OptimConfig(learning_rate=0.05, clip_norm=1.0),
)


@pytest.fixture(scope="module", autouse=True)
def double_precision_and_quick_compilation():
  with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: STEP_OPTIONS)
    yield


@functools.cache
def trained(devices, fsdp, group_size, accumulation_steps=1, stem="small", space_to_depth=False):
  """After three steps: the setup, the data, the state and its metrics."""
  model = dataclasses.replace(CONFIG.model, batch_norm_group_size=group_size, stem=stem)
  size = {"small": 16, "imagenet": 64}[stem]
  data = dataclasses.replace(CONFIG.data, image_size=size, space_to_depth=space_to_depth)
  config = dataclasses.replace(
    CONFIG, fsdp=fsdp, model=model, data=data, accumulation_steps=accumulation_steps
  )
  dataset = open_dataset(config.data)
  setup = make_setup(config, dataset.num_classes, dataset.num_train, jax.devices()[:devices])
  state, history = setup.initial_state(), []
  batches = train_batches(dataset, config.data, seed=0, batch_size=config.batch_size, first_step=0)
  for _ in range(3):
    state, metrics = setup.train_step(state, put_batch(next(batches), setup.mesh))
    history.append(jax.device_get(metrics))
  return setup, dataset, state, history


def assert_same_training(actual, expected):
  """What `trained` gave is the same but for rounding."""
  (_, _, state, history), (_, _, expected_state, expected_history) = actual, expected
  assert_close(jax.device_get(state), jax.device_get(expected_state))
  # grad_norm covers every gradient, and the momentum in the state is made of them.
  assert_close(history, expected_history)


def assert_close(actual, expected, relative=1e-10):
  for (path, a), e in zip(
    jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    a, e = np.asarray(a), np.asarray(e)
    # Some gradients are zero but for rounding, e.g. of a bias whose output BatchNorm centres again.
    scale = max(np.max(np.abs(e)), 1e-5)
    assert np.max(np.abs(a - e)) <= relative * scale, jax.tree_util.keystr(path)


@pytest.mark.parametrize("fsdp", [1, 4])
@pytest.mark.parametrize("group_size", [None, 2])
def test_eight_devices_train_to_the_state_of_one(group_size, fsdp):
  assert_same_training(trained(8, fsdp, group_size), trained(1, 1, group_size))


@pytest.mark.parametrize(("devices", "fsdp", "accumulation_steps"), [(1, 1, 8), (2, 2, 4)])
def test_micro_batches_train_to_the_state_of_the_whole_batch(devices, fsdp, accumulation_steps):
  assert_same_training(trained(devices, fsdp, 2, accumulation_steps), trained(1, 1, 2))


def test_images_in_blocks_train_to_the_state_of_images():
  blocks = trained(8, 4, 2, stem="imagenet", space_to_depth=True)
  assert_same_training(blocks, trained(1, 1, 2, stem="imagenet"))


def test_fsdp_splits_parameters_and_optimizer_state():
  _, _, state, _ = trained(8, 4, None)
  kernel = state.params["backbone"]["stage2"]["block0"]["cv2"]["conv"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  split = [
    leaf for leaf in jax.tree.leaves(state.opt_state) if not leaf.sharding.is_fully_replicated
  ]
  assert split


@functools.cache
def accuracy(devices):
  """Of the state that one device trained to."""
  variables = jax.device_get(trained(1, 1, None)[2].eval_variables)
  setup, dataset, _, _ = trained(devices, 1, None)
  return evaluate(setup, variables, dataset)


@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_counts_every_example_once(devices):
  assert {values["count"] for values in accuracy(devices).values()} == {37}


def test_evaluation_is_the_same_on_eight_devices_as_on_one():
  assert list(accuracy(8)) == ["k0", "k2"]
  for name, metrics in accuracy(8).items():
    assert metrics == pytest.approx(accuracy(1)[name], rel=1e-10)
