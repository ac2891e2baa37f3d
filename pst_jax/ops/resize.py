"""Resizing of maps: bilinear, and doubling by repetition."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _double(x, axis):
  """Doubles one axis: each output lies a quarter of a pixel beside its source."""
  size = x.shape[axis]
  before = jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
  after = jax.lax.slice_in_dim(x, 1, size, axis=axis)
  first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
  last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
  left = jnp.concatenate([first, before], axis=axis)
  right = jnp.concatenate([after, last], axis=axis)
  pair = jnp.stack([0.75 * x + 0.25 * left, 0.75 * x + 0.25 * right], axis=axis + 1)
  return pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def resize_bilinear(
  x: Float[Array, "batch height width channels"], size: tuple[int, int]
) -> Float[Array, "batch new_height new_width channels"]:
  """Bilinear resize with half-pixel centres and clamped edges, without antialiasing.

  Equal to torch.nn.functional.interpolate(mode="bilinear", align_corners=False). Exact doubling is
  two shifted sums; any other size (odd maps) goes through `jax.image.resize`, which for this
  filter renormalises at the border, i.e. clamps.
  """
  if size == (2 * x.shape[1], 2 * x.shape[2]):
    return _double(_double(x, 1), 2)
  return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def double_nearest(
  x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 2*height 2*width channels"]:
  """Every position of the map four times, as a square of 2x2."""
  batch, height, width, channels = x.shape
  squares = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
  return squares.reshape(batch, 2 * height, 2 * width, channels)
