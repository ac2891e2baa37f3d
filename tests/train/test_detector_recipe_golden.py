"""Five steps of a detector's recipe against what PyTorch computed in float64.

In the first step boxes have fewer than ten anchors with any overlap, and the rest of the ten are
anchors without. Which ones decides, in rare cases, to which box an anchor goes that two boxes want:
PyTorch's order of equal values is its own, so these tests let it choose.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import golden_values
from support.detectors import detector_state_dict, golden_targets
from support.pytorch import torch
from support.quick_jit import quick_jit

import pst_jax
from pst_jax import convert, detection
from pst_jax.detection import assignment
from train.optim import (
  ema_decay,
  make_bias_schedule,
  make_momentum,
  make_optimizer,
  make_schedule,
)
from train.tasks.detection.config import RECIPE as PUBLISHED

NAME = "yolo11n-pst"
STEPS = 5
STEPS_PER_EPOCH = 8.0
RECIPE = dataclasses.replace(
  PUBLISHED,
  warmup_epochs=1.0,
  warmup_min_steps=0,
  # With top_k 0 the gates have no gradient; PyTorch then leaves them out, decay and all.
  frozen=("*/gate*",),
)
SCHEDULE = make_schedule(RECIPE, 600 * 8, STEPS_PER_EPOCH)


@pytest.fixture(scope="module")
def golden():
  prefix = f"{NAME}/"
  arrays = golden_values.arrays("detector_recipe")
  return {key.removeprefix(prefix): value for key, value in arrays.items()}


@pytest.fixture
def torchs_ties(monkeypatch):
  """The ten largest metrics of a box are those that torch.topk names."""

  def choose(values):
    chosen = np.zeros(values.shape, bool)
    best = torch.topk(torch.tensor(np.asarray(values)), assignment.TOP_ANCHORS)[1].numpy()
    np.put_along_axis(chosen, best, True, axis=-1)
    return chosen

  def largest(x, _):
    shape = jax.ShapeDtypeStruct(x.shape, bool)
    return jax.pure_callback(choose, shape, jax.lax.stop_gradient(x))

  monkeypatch.setattr(assignment, "_largest", largest)


def five_steps(golden, dtype):
  """(loss items and norm of the gradients of each step, change and change of the average)."""
  optimizer = make_optimizer(RECIPE, SCHEDULE, STEPS_PER_EPOCH)
  model = pst_jax.create_model(NAME, dtype=dtype)
  start = convert.from_torch(NAME, detector_state_dict(NAME))
  start = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), start)

  def step(variables, opt_state, average, count, images, targets):
    def loss_of(params):
      maps, updates = model.apply(
        {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
      )
      losses = detection.loss(maps, targets)
      return losses.total, (jnp.stack([losses.box, losses.classes, losses.dfl]), updates)

    grads, (items, updates) = jax.grad(loss_of, has_aux=True)(variables["params"])
    moves, opt_state = optimizer.update(grads, opt_state, variables["params"])
    variables = {"params": optax.apply_updates(variables["params"], moves), **updates}
    decay = ema_decay(count, 0.9999, 2000.0)
    average = jax.tree.map(lambda a, v: decay * a + (1 - decay) * v, average, variables)
    return variables, opt_state, average, items, optax.global_norm(grads)

  step = quick_jit(step)
  variables, average, opt_state = start, start, optimizer.init(start["params"])
  logs = []
  for i in range(STEPS):
    images = golden_values.network_input(f"det.recipe{i}.{NAME}", (4, 3, 96, 64)).astype(dtype)
    targets = golden_targets(golden, f"step{i}/", 4, 96, 64, size=10, dtype=dtype)
    variables, opt_state, average, *log = step(
      variables, opt_state, average, jnp.int32(i), images, targets
    )
    logs.append(jax.device_get(log))
  return logs, changes(start, variables), changes(start, average)


def changes(start, variables):
  """L2 norm of what every entry of the state dict moved by."""
  moved = jax.tree.map(lambda old, new: np.asarray(new) - np.asarray(old), start, variables)
  return {name: np.linalg.norm(value) for name, value in convert.to_torch(NAME, moved).items()}


def assert_golden(golden, found, tolerance, noise):
  """`noise`: what biases move by whose gradients cancel, because another norm follows."""
  logs, change, ema_change = found
  for i, (items, norm) in enumerate(logs):
    np.testing.assert_allclose(items, golden[f"step{i}/loss_items"], rtol=tolerance)
    np.testing.assert_allclose(norm, golden[f"step{i}/grad_norm"], rtol=tolerance)
  for kind, moved in (("change", change), ("ema_change", ema_change)):
    wanted = {k.removeprefix(f"{kind}/"): v for k, v in golden.items() if k.startswith(f"{kind}/")}
    assert len(wanted) == 581
    for entry, value in wanted.items():
      np.testing.assert_allclose(moved[entry], value, rtol=tolerance, atol=noise, err_msg=entry)


@pytest.mark.slow
@pytest.mark.usefixtures("torchs_ties")
def test_five_steps_in_float64(golden):
  with jax.enable_x64(True):
    assert_golden(golden, five_steps(golden, np.float64), 1e-4, 1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("torchs_ties")
def test_five_steps_in_float32(golden):
  assert_golden(golden, five_steps(golden, np.float32), 2e-3, 1e-6)


def test_the_rates_and_momenta_of_the_five_steps(golden):
  biases = make_bias_schedule(RECIPE, SCHEDULE, STEPS_PER_EPOCH)
  momenta = make_momentum(RECIPE, STEPS_PER_EPOCH)
  for i in range(STEPS):
    found = [float(schedule(i)) for schedule in (biases, SCHEDULE, momenta)]
    expected = [float(golden[f"step{i}/{name}"]) for name in ("lr_bias", "lr", "momentum")]
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_golden_gates_do_not_move(golden):
  gates = [value for key, value in golden.items() if "gate" in key]
  assert len(gates) == 8
  np.testing.assert_allclose(gates, 0, atol=1e-12)  # the sums of nothing, rounded
