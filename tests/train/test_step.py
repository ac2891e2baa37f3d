import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from pst_jax.inference.predictor import normalize
from pst_jax.layers import ConvNorm
from train.config import Config, DataConfig, OptimConfig
from train.optim import ema_decay, make_optimizer
from train.sharding import make_mesh
from train.state import initial_state
from train.step import FINITE, make_eval_step, make_train_step
from train.tasks.classification.loss import cross_entropy, masked_sums, unmixed
from train.tasks.classification.task import TASK

CLASSES = 4


class Toy(nn.Module):
  """Compiles in a moment and has all that a step deals with."""

  dropout: float = 0.0
  top_k: int = 0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, train=False, positions=None):
    x = jnp.mean(ConvNorm(8, dtype=self.dtype)(images, train), axis=(1, 2))
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    return nn.Dense(CLASSES)(x) + self.top_k


CONFIG = Config(
  seed=3,
  batch_size=8,
  label_smoothing=0.1,
  ema_decay=0.5,
  data=DataConfig(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
  optim=OptimConfig(learning_rate=0.1, weight_decay=0.0),
)


def batch_of(count, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(256, size=(count, 4, 4, 3), dtype=np.uint8),
    "label": rng.integers(CLASSES, size=count).astype(np.int32),
  }


@functools.cache
def start(config=CONFIG, dropout=0.0):
  """A state and the jitted step."""
  model = Toy(dropout)
  optimizer = make_optimizer(config.optim, lambda _: config.optim.learning_rate)
  state = initial_state(
    model, optimizer, jax.random.key(0), (4, 4, 3), keep_ema=config.ema_decay > 0
  )
  mesh = make_mesh(devices=jax.devices()[:1])
  step = make_train_step(TASK, model, optimizer, lambda _: config.optim.learning_rate, config, mesh)
  return state, jax.jit(step)


def run(steps, **options):
  state, step = start(**options)
  history = []
  for i in range(steps):
    state, metrics = step(state, batch_of(8, seed=i))
    history.append(jax.device_get(metrics))
  return jax.device_get(state), history


def floats(tree):
  return jax.tree.map(float, tree)


def bits(tree):
  return [(x.dtype, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


# Images


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_images_are_scaled_and_normalised_for_each_channel(dtype):
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  images = np.arange(256, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
  found = normalize(images, tuple(mean), tuple(std), jnp.dtype(dtype))
  assert found.dtype == dtype
  expected = (images / 255 - mean) / std
  # One rounding to the type, after a computation in float32.
  tolerance = {"float32": 1e-6, "bfloat16": 2**-8}[dtype]
  np.testing.assert_allclose(
    np.asarray(found, np.float64), expected, rtol=tolerance, atol=tolerance
  )


# Evaluation


def sums(logits, labels, mask=None):
  mask = np.ones(len(labels), bool) if mask is None else np.array(mask)
  found = masked_sums(jnp.array(logits, jnp.float32), jnp.array(labels), mask)
  return {name: value.item() for name, value in found.items()}


def test_top_1_and_top_5_agree_with_sorting():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(200, 9)), rng.integers(9, size=200)
  order = np.argsort(-logits, axis=1)
  found = sums(logits, labels)
  assert found["top1"] == np.sum(order[:, 0] == labels)
  assert found["top5"] == np.sum(order[:, :5] == labels[:, None])
  assert found["count"] == 200


def test_of_equal_logits_the_lower_class_is_the_answer():
  assert sums(np.zeros((4, 4)), [0, 1, 2, 3])["top1"] == 1
  assert sums(np.zeros((8, 8)), range(8))["top5"] == 5


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_answer_with_nan_is_wrong(where):
  logits = np.array([[0.0, 1.0, -1.0]])
  logits[0, where] = np.nan
  found = sums(logits, [1])
  assert (found["top1"], found["top5"]) == (0, 0)


def test_with_fewer_than_five_classes_every_answer_is_among_the_top_5():
  found = sums([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [0, 2])
  assert (found["top1"], found["top5"]) == (1, 2)


def test_what_the_mask_leaves_out_counts_nowhere():
  logits = np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [np.nan, np.nan]])
  found = sums(logits, [0, 0, 0, 0], [True, True, False, False])
  assert (found["count"], found["top1"], found["top5"]) == (2, 1, 2)
  assert found["loss"] == pytest.approx(2 * np.log1p(np.e) - 1, rel=1e-6)


def test_the_evaluation_step_runs_every_network_on_the_same_variables():
  state, _ = start()
  models = {"coarse": Toy(top_k=0), "fine": Toy(top_k=3)}
  batch = batch_of(6) | {"mask": np.array([True] * 5 + [False]), "position": np.arange(6)}
  measured = jax.jit(make_eval_step(TASK, models, CONFIG))(state.eval_variables, batch)
  found = {name: each["sums"] for name, each in measured.items()}
  assert {name: sums["count"].item() for name, sums in found.items()} == {"coarse": 5, "fine": 5}
  # Toy adds top_k to every logit, which changes no probability.
  assert floats(found["coarse"]) == pytest.approx(floats(found["fine"]), rel=1e-5)


# Training


def test_two_runs_are_equal_to_the_bit():
  assert bits(run(3, dropout=0.5)) == bits(run(3, dropout=0.5))


def test_the_metrics_are_those_of_the_step():
  state, step = start()
  batch = batch_of(8)
  new, metrics = step(state, batch)
  assert metrics.pop(FINITE).tolist() == [1] * len(jax.tree.leaves(state.params))

  def loss_of(params):
    images = normalize(batch["image"], CONFIG.data.mean, CONFIG.data.std, jnp.float32)
    variables = {"params": params, "batch_stats": state.batch_stats}
    logits, _ = Toy().apply(variables, images, train=True, mutable=["batch_stats"])
    losses = cross_entropy(logits, unmixed(batch["label"]), CONFIG.label_smoothing)
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=1) == batch["label"])

  (loss, top1), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(state.params)
  expected = {
    "loss": loss,
    "top1": top1,
    "learning_rate": 0.1,
    "grad_norm": optax.global_norm(grads),
    "grad_norm_ConvNorm_0": optax.global_norm(grads["ConvNorm_0"]),
    "grad_norm_Dense_0": optax.global_norm(grads["Dense_0"]),
    "param_norm": optax.global_norm(new.params),
  }
  assert floats(metrics) == pytest.approx(floats(expected), rel=1e-5)
  assert (state.step, new.step) == (0, 1)


def test_parameters_that_overflow_show_in_the_metrics_of_the_same_step():
  config = dataclasses.replace(CONFIG, optim=OptimConfig(learning_rate=3e38, weight_decay=0.0))
  _, (metrics,) = run(1, config=config)
  assert np.isfinite(metrics["loss"])
  assert np.isfinite(metrics["grad_norm"])
  assert not np.isfinite(metrics["param_norm"])


def test_the_average_starts_at_the_initial_values_and_follows_its_formula():
  state, step = start()
  assert bits(state.ema) == bits(state.variables)
  expected = state.ema
  for i in range(4):
    state, _ = step(state, batch_of(8, seed=i))
    decay = min(CONFIG.ema_decay, (1 + i) / (10 + i))
    expected = jax.tree.map(
      lambda old, new, d=decay: d * old + (1 - d) * new, expected, state.variables
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected
  )
  assert bits(state.eval_variables) == bits(state.ema)
  assert bits(state.ema) != bits(state.variables)


def test_the_decay_of_the_average_rises_to_its_limit():
  found = [float(ema_decay(jnp.int32(step), 0.9)) for step in (0, 10, 1000)]
  assert found == pytest.approx([1 / 10, 11 / 20, 0.9])


def test_the_average_follows_the_ramp_of_the_config():
  config = dataclasses.replace(CONFIG, ema_ramp=2.0)
  state, step = start(config=config)
  before = state.ema
  state, _ = step(state, batch_of(8))
  decay = CONFIG.ema_decay * (1 - math.exp(-1 / 2.0))
  expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, before, state.variables)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected
  )


def test_without_an_average_the_parameters_are_evaluated():
  state, _ = run(1, config=dataclasses.replace(CONFIG, ema_decay=0.0))
  assert state.ema is None
  assert bits(state.eval_variables) == bits(state.variables)


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed():
  state, step = start(dropout=0.5)
  batch = batch_of(8)
  losses = [
    float(step(state.replace(step=jnp.int32(number)), batch)[1]["loss"]) for number in (0, 1, 2, 0)
  ]
  assert len(set(losses[:3])) == 3
  assert losses[0] == losses[3]
  _, other_seed = start(dataclasses.replace(CONFIG, seed=4), dropout=0.5)
  assert float(other_seed(state, batch)[1]["loss"]) not in losses


def test_without_dropout_the_step_number_changes_no_loss():
  state, step = start()
  losses = {
    float(step(state.replace(step=jnp.int32(number)), batch_of(8))[1]["loss"]) for number in (0, 5)
  }
  assert len(losses) == 1
