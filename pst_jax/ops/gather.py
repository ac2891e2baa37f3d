"""Gathering the fine tokens that each head selected."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# The indices come from `child_indices`, which stays inside the map: no clamping needed.
_MODE = "promise_in_bounds"


def gather_tokens(
  tokens: Float[Array, "batch fine heads dim"], indices: Int[Array, "batch heads *queries children"]
) -> Float[Array, "batch heads *queries children dim"]:
  """The tokens at `indices`, each head (or each query of it) its own."""
  flat = indices.reshape(*indices.shape[:2], -1, 1)
  found = jnp.take_along_axis(jnp.swapaxes(tokens, 1, 2), flat, axis=2, mode=_MODE)
  return found.reshape(*indices.shape, -1)


def gather_and_project(
  x: Float[Array, "batch fine channels"],
  indices: Int[Array, "batch heads children"],
  kernel: Float[Array, "channels heads*out"],
  bias: Float[Array, "heads*out"],
) -> Float[Array, "batch heads children out"]:
  """Equal to gathering from `x @ kernel + bias`, but only the gathered rows are projected.

  Head i owns the columns [out*i, out*(i+1)) of the kernel. Exact where the projection is affine,
  as convolution + BatchNorm is in evaluation.
  """
  batch, heads, children = indices.shape
  rows = jnp.take_along_axis(x, indices.reshape(batch, -1)[..., None], axis=1, mode=_MODE)
  rows = rows.reshape(batch, heads, children, -1)
  kernel = kernel.reshape(kernel.shape[0], heads, -1).astype(x.dtype)
  out = jnp.einsum("bhkc,chd->bhkd", rows, kernel)
  return out + bias.reshape(heads, 1, -1).astype(x.dtype)
