"""The optimizer of one-stage detectors: three groups, two warm-ups, rates by epoch, ramped EMA."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.pytorch import torch

from train.optim import (
  bias_or_not,
  decayed,
  ema_decay,
  make_bias_schedule,
  make_momentum,
  make_optimizer,
  make_schedule,
  warmup_steps,
)
from train.schema import OptimConfig
from train.tasks.detection.config import RECIPE

STEPS_PER_EPOCH = 925.0  # COCO: 118,287 images by 128
EPOCHS = 600


# Schedules


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
  ("step", "bias", "other", "momentum"),
  [
    (0, 0.1, 0.0, 0.8),
    (1, 0.0999676, 3.6036e-6, 0.8000494),
    (925, 0.0699945, 0.0033278, 0.8456667),
    (2775, 0.0099505, 0.0099505, 0.937),
    (300 * 925, 0.00505, 0.00505, 0.937),
    (599 * 925, 0.0001165, 0.0001165, 0.937),
  ],
)
def test_rates_and_momentum_on_coco(step, bias, other, momentum, x64):
  """Figures of the recipe of 600 epochs at batch 128, worked out by hand."""
  with jax.enable_x64(x64):
    schedule = make_schedule(RECIPE, EPOCHS * 925, STEPS_PER_EPOCH)
    biases = make_bias_schedule(RECIPE, schedule, STEPS_PER_EPOCH)
    momenta = make_momentum(RECIPE, STEPS_PER_EPOCH)
    found = [float(f(jnp.int32(step))) for f in (biases, schedule, momenta)]
  # As far as the figures are written out.
  assert found == pytest.approx([bias, other, momentum], rel=2e-5)


def test_the_linear_rate_is_the_same_all_through_an_epoch():
  config = dataclasses.replace(RECIPE, warmup_epochs=0.0)
  schedule = make_schedule(config, round(10 * 22.45), 22.45)
  found = [float(schedule(step)) for step in range(224)]
  epochs = [math.floor(step / 22.45) for step in range(224)]
  assert len(set(found)) == 10
  for rate, epoch in zip(found, epochs, strict=True):
    assert rate == pytest.approx(0.01 * ((1 - epoch * 22.45 / 224) * 0.99 + 0.01), rel=1e-5)


def test_the_epoch_changes_at_its_first_step_and_not_one_off():
  # 0.1 has no exact form in binary: dividing by it would put some steps into the epoch before.
  config = dataclasses.replace(RECIPE, warmup_epochs=0.0, final_factor=0.0, learning_rate=1.0)
  schedule = jax.jit(make_schedule(config, 3000, 0.3 * 100))
  assert [float(schedule(30 * e)) for e in range(100)] == pytest.approx(
    [1 - e / 100 for e in range(100)], abs=1e-6
  )


def test_a_short_run_warms_up_for_the_least_number_of_steps():
  assert warmup_steps(RECIPE, 925.0) == 2775
  assert warmup_steps(RECIPE, 5.0) == 100
  assert warmup_steps(dataclasses.replace(RECIPE, warmup_epochs=0.0), 5.0) == 0


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant", "linear"])
def test_biases_of_every_schedule_meet_the_others_at_the_end_of_the_warm_up(schedule):
  config = dataclasses.replace(RECIPE, schedule=schedule, warmup_min_steps=0)
  others = make_schedule(config, 1000, 10.0)
  biases = make_bias_schedule(config, others, 10.0)
  assert float(biases(0)) == pytest.approx(0.1)
  assert float(biases(15)) == pytest.approx(0.05 + float(others(15)))
  assert [float(biases(s)) for s in (30, 500)] == [float(others(s)) for s in (30, 500)]


@pytest.mark.parametrize("x64", [False, True])
def test_the_ramp_of_the_average(x64):
  with jax.enable_x64(x64):
    found = [float(ema_decay(jnp.int32(n - 1), 0.9999, 2000.0)) for n in (1, 2000, 10000)]
  # 1 - exp(-n / 2000) would lose four digits at n = 1 in float32.
  assert found == pytest.approx([0.00049982504, 0.6320573, 0.9931627], rel=3e-7)


# Groups

PARAMS = {
  "conv": {"kernel": (5, 3)},
  "bn": {"scale": (3,), "bias": (3,)},
  "head": {"kernel": (3, 4), "bias": (4,)},
}


def random_trees(count):
  rng = np.random.default_rng(0)
  shapes = jax.tree.map(lambda shape: np.zeros(shape), PARAMS, is_leaf=lambda x: type(x) is tuple)
  return [jax.tree.map(lambda z: 3 * rng.normal(size=z.shape), shapes) for _ in range(count)]


def test_every_parameter_is_in_one_of_three_groups():
  (params,) = random_trees(1)
  found = jax.tree.map(lambda group, decays: (group, decays), bias_or_not(params), decayed(params))
  assert found == {
    "conv": {"kernel": ("other", True)},
    "bn": {"scale": ("other", False), "bias": ("bias", False)},
    "head": {"kernel": ("other", True), "bias": ("bias", False)},
  }


def torch_steps(config, start, gradients, warmup):
  """PyTorch's SGD with the groups, rates and momenta that the recipe sets before every step."""
  leaves, structure = jax.tree.flatten(start)
  params = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
  is_bias = jax.tree.leaves(jax.tree.map(lambda g: g == "bias", bias_or_not(start)))
  decays = jax.tree.leaves(decayed(start))
  optimizer = torch.optim.SGD(
    [
      {"params": [p], "weight_decay": config.weight_decay * d}
      for p, d in zip(params, decays, strict=True)
    ],
    lr=config.learning_rate,
    momentum=config.momentum,
    nesterov=True,
  )
  for step, grads in enumerate(gradients):
    for param, grad in zip(params, jax.tree.leaves(grads), strict=True):
      param.grad = torch.tensor(grad)
    torch.nn.utils.clip_grad_norm_(params, config.clip_norm)
    for group, bias in zip(optimizer.param_groups, is_bias, strict=True):
      first = config.warmup_bias_lr if bias else 0.0
      group["lr"] = np.interp(step, [0, warmup], [first, config.learning_rate])
      momenta = [config.warmup_momentum, config.momentum]
      group["momentum"] = np.interp(step, [0, warmup], momenta)
    optimizer.step()
  return jax.tree.unflatten(structure, [param.detach().numpy() for param in params])


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-12), (False, 1e-5)])
def test_twelve_steps_move_parameters_as_pytorch_does(x64, tolerance):
  start, *gradients = random_trees(13)
  steps_per_epoch = 8 / 3
  config = dataclasses.replace(RECIPE, final_factor=1.0, warmup_min_steps=0)
  expected = torch_steps(config, start, gradients, warmup=8)
  with jax.enable_x64(x64):
    schedule = make_schedule(config, 12, steps_per_epoch)
    optimizer = make_optimizer(config, schedule, steps_per_epoch)
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for grads in gradients:
      updates, state = update(jax.tree.map(jnp.asarray, grads), state, params)
      params = jax.device_get(optax.apply_updates(params, updates))
  for path, found in jax.tree_util.tree_leaves_with_path(params):
    wanted = expected[path[0].key][path[1].key]
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance, err_msg=str(path))
    assert np.abs(found - start[path[0].key][path[1].key]).max() > 1e-2


def test_clipping_divides_by_the_norm_and_a_millionth():
  config = OptimConfig(
    learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-6, clip_epsilon=1e-6
  )
  optimizer = make_optimizer(config, lambda _: 1.0)
  params = {"kernel": jnp.zeros(1)}
  updates, _ = optimizer.update({"kernel": jnp.array([1e-6])}, optimizer.init(params), params)
  assert float(updates["kernel"][0]) == pytest.approx(-5e-7)
