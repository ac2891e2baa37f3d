"""The forms for the CPU equal XLA's own operations, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pst_jax.ops import conv2d, conv2d_of_blocks, max_pool
from pst_jax.ops.convolution import _convolve, _reduce_window


def to_blocks(x):
  """Channel 6 i + 3 j + c is channel c of pixel (i, j) of a block."""
  rows = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
  return jnp.concatenate(rows, axis=-1)


@pytest.fixture(autouse=True)
def double_precision():
  with jax.enable_x64(True):
    yield


def value_and_gradients(function, *arguments):
  value, backward = jax.vjp(function, *arguments)
  return value, *backward(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))


def assert_equal_results(function, reference, *arguments):
  actual = jax.jit(lambda *a: value_and_gradients(function, *a))(*arguments)
  expected = jax.jit(lambda *a: value_and_gradients(reference, *a))(*arguments)
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


def normal(*shape):
  return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_convolution_of_an_image_in_blocks(side):
  assert_equal_results(
    lambda x, w: conv2d_of_blocks(to_blocks(x), w),
    lambda x, w: _convolve(x, w, 2),
    normal(2, 12, 8, 3),
    normal(side, side, 3, 5),
  )


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1, 6, 4), (3, 3, 6, 4), (7, 7, 6, 4), (7, 7, 1, 6)])
def test_convolution(size, strides, kernel):
  assert_equal_results(
    lambda x, w: conv2d(x, w, strides),
    lambda x, w: _convolve(x, w, strides),
    normal(2, *size, 6),
    normal(*kernel),
  )


def test_a_depthwise_sum_in_bfloat16_is_rounded_once():
  x, kernel = (normal(*shape).astype(jnp.bfloat16) for shape in ((2, 8, 8, 6), (7, 7, 1, 6)))
  exact = conv2d(x.astype(float), kernel.astype(float))
  np.testing.assert_array_equal(jax.jit(conv2d)(x, kernel), exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_max_pool(size):
  assert_equal_results(max_pool, _reduce_window, normal(2, *size, 3))


def test_the_gradient_of_equal_values_goes_to_the_first():
  assert_equal_results(max_pool, _reduce_window, jnp.zeros((1, 6, 6, 1)))


def test_max_pool_under_vmap():
  x = normal(3, 2, 6, 6, 1)
  gradient = jax.grad(lambda x: jnp.sum(jnp.sin(max_pool(x))))
  np.testing.assert_allclose(jax.vmap(gradient)(x)[1], gradient(x[1]), rtol=1e-12)
