import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.pytorch import torch

import pst_jax
from pst_jax.errors import UserError
from train.config import OptimConfig
from train.optim import decayed, make_optimizer, make_schedule

STEPS_PER_EPOCH = 22.45  # examples / batch size, a fraction in general


def rates(steps, **options) -> list[float]:
  """Learning rates of some steps in a run of 10 epochs."""
  schedule = make_schedule(OptimConfig(**options), round(10 * STEPS_PER_EPOCH), STEPS_PER_EPOCH)
  return [float(schedule(step)) for step in steps]


# Schedules

TOTAL = 224  # steps in 10 epochs
WARMUP = 45  # steps in 2 epochs


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_the_warm_up_rises_in_a_line_from_zero_to_the_peak(schedule):
  found = rates(
    [0, 1, 9, WARMUP - 1, WARMUP],
    learning_rate=0.9,
    warmup_epochs=2.0,
    schedule=schedule,
    step_epochs=(5.0,),
  )
  assert found == pytest.approx([0.0, 0.02, 0.18, 0.88, 0.9], rel=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_without_warm_up_the_first_step_has_the_peak(schedule):
  assert rates([0], learning_rate=0.9, schedule=schedule) == pytest.approx([0.9])


@pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
@pytest.mark.parametrize("final_factor", [0.0, 0.01, 1.0])
def test_the_cosine_ends_at_the_final_factor(final_factor, warmup_epochs):
  (last,) = rates(
    [TOTAL], learning_rate=0.2, warmup_epochs=warmup_epochs, final_factor=final_factor
  )
  assert last == pytest.approx(0.2 * final_factor, abs=1e-8)


def test_the_cosine_is_half_way_down_in_the_middle():
  options = {"learning_rate": 1.0, "warmup_epochs": 2.0, "final_factor": 0.2}
  before, after = rates([(TOTAL + WARMUP) // 2, (TOTAL + WARMUP + 1) // 2], **options)
  assert after < 0.6 < before
  assert (before + after) / 2 == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
def test_a_step_falls_after_its_epoch(warmup_epochs):
  found = rates(
    [66, 67, 178, 179, 180],  # 3 epochs are 67.35 steps, 8 are 179.6
    learning_rate=1.0,
    schedule="step",
    step_epochs=(3.0, 8.0),
    step_factor=0.1,
    warmup_epochs=warmup_epochs,
  )
  assert found == pytest.approx([1.0, 0.1, 0.1, 0.1, 0.01], rel=1e-6)


def test_steps_that_fall_together_each_count():
  options = {"learning_rate": 1.0, "schedule": "step", "step_factor": 0.5, "warmup_epochs": 2.0}
  assert rates([WARMUP], step_epochs=(1.0, 1.5), **options) == pytest.approx([0.25])
  assert rates([100], step_epochs=(3.0, 3.0), **options) == pytest.approx([0.25])


def test_a_step_schedule_without_steps_is_constant():
  assert rates([0, TOTAL], learning_rate=0.3, schedule="step", step_epochs=()) == (
    pytest.approx([0.3, 0.3])
  )


# Weight decay


@pytest.fixture(scope="module")
def parameters():
  """Shapes of a network that has every kind of parameter."""
  model = pst_jax.create_model("resnet18_pst", 10, stem="small", width=0.25)
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]


def test_weight_decay_spares_batch_norm_and_biases_and_nothing_else(parameters):
  is_decayed = {
    jax.tree_util.keystr(path, simple=True, separator="/"): decays
    for path, decays in jax.tree_util.tree_leaves_with_path(decayed(parameters))
  }
  spared = {name for name, decays in is_decayed.items() if not decays}
  assert spared == {n for n in is_decayed if n.endswith(("/bn/scale", "bias"))}
  assert {name.split("/")[-1] for name in is_decayed if name not in spared} == (
    {"kernel", "gate_kernel"}
  )
  assert {"head/linear/bias", "head/linear/kernel"} <= set(is_decayed)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_without_gradients_decay_alone_moves_the_kernels(name):
  params = {"kernel": jnp.array([2.0]), "scale": jnp.array([2.0]), "bias": jnp.array([2.0])}
  config = OptimConfig(name=name, learning_rate=0.5, weight_decay=0.25, momentum=0.0)
  optimizer = make_optimizer(config, lambda _: 0.5)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  assert {k: float(v[0]) for k, v in updates.items()} == {"kernel": -0.25, "scale": 0, "bias": 0}


# Functions of other modules


def updates_of(optimizer, params):
  state = optimizer.init(params)
  gradients = jax.tree.map(lambda x: x + 1, params)
  return optimizer.update(gradients, state, params)[0]


def test_a_function_of_another_module_makes_the_optimizer():
  params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
  config = OptimConfig(name="optax.contrib:muon", options={"beta": 0.8, "nesterov": False})
  found = updates_of(make_optimizer(config, lambda _: 0.5), params)
  expected = updates_of(optax.contrib.muon(0.5, beta=0.8, nesterov=False), params)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
  ("name", "options", "complaint"),
  [
    ("optax.nothing:muon", {}, "No module named 'optax.nothing'"),
    ("optax:nothing", {}, "no attribute 'nothing'"),
    ("optax:adam", {"beta": 1}, "unexpected keyword argument 'beta'"),
    ("optax:global_norm", {}, "returned a|makes no optimizer"),
  ],
)
def test_a_function_that_makes_no_optimizer_is_named(name, options, complaint):
  with pytest.raises(UserError, match=complaint):
    make_optimizer(OptimConfig(name=name, options=options), lambda _: 0.5)


# Against PyTorch

SHAPES = {"kernel": (3, 4), "bias": (4,)}


def random_trees(count):
  rng = np.random.default_rng(0)
  return [{name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(count)]


def run_optax(config, start, gradients):
  optimizer = make_optimizer(config, lambda step: config.learning_rate / (1 + step))
  params = jax.tree.map(jnp.asarray, start)
  state = optimizer.init(params)
  for grads in gradients:
    updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
    params = optax.apply_updates(params, updates)
  return params


def run_torch(make, config, start, gradients):
  params = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
  groups = [
    {"params": [params["kernel"]], "weight_decay": config.weight_decay},
    {"params": [params["bias"]], "weight_decay": 0.0},
  ]
  optimizer = make(groups)
  for step, grads in enumerate(gradients):
    for name, value in grads.items():
      params[name].grad = torch.tensor(value)
    if config.clip_norm:
      torch.nn.utils.clip_grad_norm_(params.values(), config.clip_norm)
    for group in optimizer.param_groups:
      group["lr"] = config.learning_rate / (1 + step)
    optimizer.step()
  return {name: value.detach().numpy() for name, value in params.items()}


MAKERS = {
  "sgd": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True),
  "adamw": lambda groups: torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99)),
}


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", MAKERS)
def test_the_optimizer_moves_parameters_as_pytorch_does(name, clip_norm):
  config = OptimConfig(
    name=name, learning_rate=0.1, momentum=0.9, beta2=0.99, weight_decay=0.05, clip_norm=clip_norm
  )
  start, *gradients = random_trees(6)
  with jax.enable_x64(True):
    found = jax.device_get(run_optax(config, start, gradients))
  expected = run_torch(MAKERS[name], config, start, gradients)
  for leaf in SHAPES:
    # PyTorch's clipping divides by the norm + 1e-6.
    np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-5 if clip_norm else 1e-12)
    assert np.abs(found[leaf] - start[leaf]).min() > 1e-3


def test_gradients_below_the_clipping_norm_are_left_alone():
  start, gradient = random_trees(2)
  found = [
    run_optax(OptimConfig(learning_rate=0.1, clip_norm=norm), start, [gradient])
    for norm in (None, 1e3)
  ]
  jax.tree.map(np.testing.assert_array_equal, *found)


# LAMB

LAMB = OptimConfig(name="lamb", learning_rate=0.1, momentum=0.8, beta2=0.99, weight_decay=0.05)


def run_numpy_lamb(config, start, gradients):
  """Algorithm 2 of arXiv 1904.00962; biases take no decay and no trust ratio, as in timm."""
  params = {name: value.copy() for name, value in start.items()}
  mean = {name: np.zeros_like(value) for name, value in start.items()}
  square = {name: np.zeros_like(value) for name, value in start.items()}
  for step, grads in enumerate(gradients):
    rate = config.learning_rate / (1 + step)
    norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
    clip = min(1, config.clip_norm / norm) if config.clip_norm else 1
    for name, param in params.items():
      g = clip * grads[name]
      mean[name] = config.momentum * mean[name] + (1 - config.momentum) * g
      square[name] = config.beta2 * square[name] + (1 - config.beta2) * g**2
      unbiased_mean = mean[name] / (1 - config.momentum ** (step + 1))
      unbiased_square = square[name] / (1 - config.beta2 ** (step + 1))
      update = unbiased_mean / (np.sqrt(unbiased_square) + 1e-6)
      if name == "kernel":
        update += config.weight_decay * param
        update *= np.linalg.norm(param) / np.linalg.norm(update)
      params[name] = param - rate * update
  return params


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_lamb_moves_parameters_as_its_algorithm_says(clip_norm):
  config = dataclasses.replace(LAMB, clip_norm=clip_norm)
  start, *gradients = random_trees(6)
  with jax.enable_x64(True):
    found = jax.device_get(run_optax(config, start, gradients))
  expected = run_numpy_lamb(config, start, gradients)
  for leaf in SHAPES:
    np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-12)
    assert np.abs(found[leaf] - start[leaf]).min() > 1e-3


def test_lamb_makes_the_same_relative_step_for_kernels_of_any_size():
  start, gradient = random_trees(2)
  relative = []
  for scale in (1.0, 100.0):
    scaled = {name: scale * value for name, value in start.items()}
    config = dataclasses.replace(LAMB, weight_decay=0.0)
    found = run_optax(config, scaled, [gradient])
    step = np.asarray(found["kernel"]) - scaled["kernel"]
    relative.append(np.linalg.norm(step) / np.linalg.norm(scaled["kernel"]))
  assert relative == pytest.approx([0.1, 0.1], rel=1e-4)


def test_lamb_moves_a_kernel_of_zeros():
  """The gate of PST starts at zero: without a norm to go by it takes Adam's step."""
  start = {"gate_kernel": np.zeros((2, 2))}
  found = run_optax(LAMB, start, [{"gate_kernel": np.full((2, 2), 0.3)}])
  np.testing.assert_allclose(found["gate_kernel"], -0.1, rtol=1e-4)
  still = run_optax(LAMB, start, [{"gate_kernel": np.zeros((2, 2))}])
  np.testing.assert_array_equal(still["gate_kernel"], 0)
