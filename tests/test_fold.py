import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quick_jit import quick_jit
from support.random_variables import random_variables

import pst_jax
from pst_jax.layers import PST

SMALL = {"num_classes": 7, "stem": "small", "width": 0.125}


def relative(actual, expected):
  return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", ["r18-cls-pst", "yolo11m-cls-pst", "resnet18", "resnet50_pst"])
def test_folded_variables_are_exactly_those_of_the_folded_network(name):
  model = pst_jax.create_model(name, num_classes=7)
  images = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
  folded, variables = pst_jax.fold_batch_norm(
    model, jax.tree.map(lambda leaf: leaf[...] + np.float32(1), zeros)
  )
  expected = jax.eval_shape(folded.init, jax.random.key(0), images)
  assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, expected)


@pytest.mark.parametrize(("name", "top_k"), [("resnet18_pst", 3), ("yolo11n-cls-pst", 0)])
def test_folded_network_gives_the_same_logits(name, top_k):
  model = pst_jax.create_model(name, top_k=top_k, **SMALL)
  images = np.random.default_rng(0).standard_normal((2, 25, 32, 3), np.float32)
  variables = random_variables(model, images)
  folded, folded_variables = pst_jax.fold_batch_norm(model, variables)
  expected = quick_jit(model.apply)(variables, images)
  assert relative(quick_jit(folded.apply)(folded_variables, images), expected) < 1e-4


def test_epsilon_of_the_module_enters_the_fold():
  x, upper = np.ones((1, 4, 4, 8), np.float32), np.ones((1, 2, 2, 8), np.float32)
  module = PST(64, top_k=2, epsilon=0.5)
  variables = random_variables(module, x, upper)
  folded, folded_variables = pst_jax.fold_batch_norm(module, variables)
  expected = quick_jit(module.apply)(variables, x, upper)
  assert relative(quick_jit(folded.apply)(folded_variables, x, upper), expected) < 1e-4


def test_folding_runs_inside_jit():
  module = PST(64)
  x, upper = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 2, 2, 8))
  variables = random_variables(module, x, upper)
  inside = quick_jit(lambda v: pst_jax.fold_batch_norm(module, v)[1])(variables)
  outside = pst_jax.fold_batch_norm(module, variables)[1]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), inside, outside)


def test_a_folded_network_does_not_train():
  model = pst_jax.create_model("resnet18", folded=True, **SMALL)
  with pytest.raises(ValueError, match="cannot train"):
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True))


def test_folding_twice_is_an_error():
  module, variables = PST(64, folded=True), {"params": {}}
  with pytest.raises(ValueError, match="folded already"):
    pst_jax.fold_batch_norm(module, variables)
