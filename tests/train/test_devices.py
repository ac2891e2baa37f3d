"""The number of devices changes nothing but rounding: float64 shows it."""

import dataclasses

import jax
import numpy as np
import pytest

from train.config import Config, DataConfig, ModelConfig, OptimConfig
from train.data import open_dataset, train_batches
from train.evaluation import evaluate
from train.setup import make_setup
from train.sharding import put_batch

# Small enough for seconds, wide enough that fsdp splits some kernels.
CONFIG = Config(
  epochs=3,
  batch_size=16,
  eval_batch_size=12,
  eval_top_k=(0, 2),
  label_smoothing=0.1,
  ema_decay=0.9,
  model=ModelConfig(name="resnet18_pst", stem="small", width=0.25, dtype="float64"),
  data=DataConfig(
    dataset="synthetic",
    synthetic_examples=37,
    synthetic_classes=10,
    image_size=16,
    crop="none",
    eval_crop=1.0,
    threads=1,
  ),
  optim=OptimConfig(learning_rate=0.05, clip_norm=1.0),
)


@pytest.fixture(autouse=True)
def double_precision():
  with jax.enable_x64(True):
    yield


def trained(devices, fsdp, group_size, steps=3):
  model = dataclasses.replace(CONFIG.model, batch_norm_group_size=group_size)
  config = dataclasses.replace(CONFIG, fsdp=fsdp, model=model)
  dataset = open_dataset(config.data)
  setup = make_setup(config, dataset.num_classes, dataset.num_train, jax.devices()[:devices])
  state, history = setup.initial_state(), []
  batches = train_batches(dataset, config.data, seed=0, batch_size=config.batch_size, first_step=0)
  for _ in range(steps):
    state, metrics = setup.train_step(state, put_batch(next(batches), setup.mesh))
    history.append(jax.device_get(metrics))
  return setup, dataset, state, history


@pytest.fixture(scope="module")
def one_device():
  results = {}

  def run(group_size):
    if group_size not in results:
      with jax.enable_x64(True):
        _, _, state, history = trained(1, 1, group_size)
        results[group_size] = jax.device_get(state), history
    return results[group_size]

  return run


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
def test_eight_devices_train_to_the_state_of_one(one_device, group_size, fsdp):
  expected, expected_history = one_device(group_size)
  _, _, state, history = trained(8, fsdp, group_size)
  assert_close(jax.device_get(state), expected)
  # grad_norm covers every gradient, and the momentum in the state is made of them.
  assert_close(history, expected_history)


def test_fsdp_splits_parameters_and_optimizer_state():
  _, _, state, _ = trained(8, 4, None, steps=1)
  kernel = state.params["backbone"]["stage4"]["block1"]["cv2"]["conv"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  split = [
    leaf for leaf in jax.tree.leaves(state.opt_state) if not leaf.sharding.is_fully_replicated
  ]
  assert split


@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_counts_every_example_once(devices):
  setup, dataset, state, _ = trained(devices, 1, None, steps=1)
  accuracy = evaluate(setup, state.eval_variables, dataset)
  assert {values["count"] for values in accuracy.values()} == {37}


def test_evaluation_is_the_same_on_eight_devices_as_on_one():
  results = []
  for devices in (1, 8):
    setup, dataset, _, _ = trained(devices, 1, None, steps=0)
    results.append(evaluate(setup, setup.initial_state().eval_variables, dataset))
  for top_k in CONFIG.eval_top_k:
    assert results[0][top_k] == pytest.approx(results[1][top_k], rel=1e-10)
