import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quick_jit import quick_jit

from pst_jax import ops

resize = quick_jit(ops.resize_bilinear, static_argnums=1)


def naive_resize(x, size):
  """Bilinear resize pixel by pixel: half-pixel centres, source positions clamped to the map."""
  batch, height, width, channels = x.shape
  out = np.empty((batch, *size, channels))
  for i, j in np.ndindex(*size):
    row = np.clip((i + 0.5) * height / size[0] - 0.5, 0, height - 1)
    column = np.clip((j + 0.5) * width / size[1] - 0.5, 0, width - 1)
    top, left = int(row), int(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = row - top, column - left
    out[:, i, j] = (
      (1 - dy) * (1 - dx) * x[:, top, left]
      + (1 - dy) * dx * x[:, top, right]
      + dy * (1 - dx) * x[:, bottom, left]
      + dy * dx * x[:, bottom, right]
    )
  return out


# Source size and the doubled size, or one less where the fine map is odd.
SIZES = [
  ((4, 6), (8, 12)),
  ((4, 6), (7, 12)),
  ((4, 6), (8, 11)),
  ((4, 6), (7, 11)),
  ((1, 1), (2, 2)),
  ((1, 1), (1, 1)),
  ((1, 3), (1, 6)),
]


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_resize_has_half_pixel_centres_and_clamped_edges(source, size):
  x = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
  np.testing.assert_allclose(resize(x, size), naive_resize(x, size), atol=5e-6)


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_gradient_of_resize_is_the_transposed_map(size):
  rng = np.random.default_rng(0)
  x, probe = rng.normal(size=(1, 4, 6, 1)), rng.normal(size=(1, *size, 1))

  def loss(x):
    return jnp.vdot(probe, ops.resize_bilinear(x, size))

  gradient = quick_jit(jax.grad(loss))(x.astype(np.float32))
  columns = [naive_resize(e.reshape(1, 4, 6, 1), size).ravel() for e in np.eye(24)]
  np.testing.assert_allclose(gradient.ravel(), columns @ probe.ravel(), atol=1e-5)


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_resize_under_vmap(size):
  x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
  per_example = jax.vmap(lambda x: ops.resize_bilinear(x[None], size)[0])
  np.testing.assert_allclose(quick_jit(per_example)(x), resize(x, size), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_resize_keeps_bfloat16(size):
  out = resize(np.ones((1, 4, 6, 1), jnp.bfloat16), size)
  assert out.dtype == jnp.bfloat16
  assert np.all(np.asarray(out, np.float32) == 1)
