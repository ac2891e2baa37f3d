import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quick_jit import quick_jit

from pst_jax import ops

BATCH, FINE, HEADS, CHILDREN, CHANNELS, OUT = 2, 15, 3, 8, 6, 4


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def indices():
  # Repeated ones too: index 0 stands for every child past the border.
  return np.random.default_rng(9).integers(0, FINE, size=(BATCH, HEADS, CHILDREN))


def naive_gather(tokens, indices):
  return np.stack(
    [
      np.stack([tokens[b, indices[b, h], h] for h in range(tokens.shape[2])])
      for b in range(tokens.shape[0])
    ]
  )


def test_every_head_gathers_its_own_tokens():
  tokens = normal(0, BATCH, FINE, HEADS, OUT)
  np.testing.assert_array_equal(
    quick_jit(ops.gather_tokens)(tokens, indices()), naive_gather(tokens, indices())
  )


def test_a_gathered_token_gets_the_sum_of_its_gradients():
  tokens, probe = normal(0, BATCH, FINE, HEADS, OUT), normal(1, BATCH, HEADS, CHILDREN, OUT)
  expected = np.zeros_like(tokens)
  for b, h, child in np.ndindex(BATCH, HEADS, CHILDREN):
    expected[b, indices()[b, h, child], h] += probe[b, h, child]
  gradient = quick_jit(jax.grad(lambda t: jnp.vdot(probe, ops.gather_tokens(t, indices()))))(tokens)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def projection():
  return (
    normal(0, BATCH, FINE, CHANNELS),
    normal(1, CHANNELS, HEADS * OUT),
    normal(2, HEADS * OUT),
  )


def project_then_gather(x, indices, kernel, bias):
  projected = (x @ kernel + bias).reshape(x.shape[0], x.shape[1], HEADS, OUT)
  return ops.gather_tokens(projected, indices)


def test_gather_and_project_is_project_then_gather():
  x, kernel, bias = projection()
  np.testing.assert_allclose(
    quick_jit(ops.gather_and_project)(x, indices(), kernel, bias),
    quick_jit(project_then_gather)(x, indices(), kernel, bias),
    atol=5e-6,
  )


def test_gather_and_project_has_the_gradients_of_project_then_gather():
  x, kernel, bias = projection()
  probe = normal(3, BATCH, HEADS, CHILDREN, OUT)

  def gradients(function):
    def loss(x, kernel, bias):
      return jnp.vdot(probe, function(x, indices(), kernel, bias))

    return quick_jit(jax.grad(loss, argnums=(0, 1, 2)))(x, kernel, bias)

  for actual, expected in zip(
    gradients(ops.gather_and_project), gradients(project_then_gather), strict=True
  ):
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("function", [ops.gather_and_project, project_then_gather])
def test_gathering_under_vmap(function):
  x, kernel, bias = projection()
  per_example = jax.vmap(lambda x, i: function(x[None], i[None], kernel, bias)[0])
  np.testing.assert_allclose(
    quick_jit(per_example)(x, indices()),
    quick_jit(function)(x, indices(), kernel, bias),
    atol=5e-6,
  )
