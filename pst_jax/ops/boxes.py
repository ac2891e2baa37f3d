"""Boxes [..., 4] as x1, y1, x2, y2: overlaps, and the greedy choice among overlapping ones."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pairwise_iou(a: Float[Array, "... 4"], b: Float[Array, "... 4"]) -> Float[Array, "..."]:
  """Intersection over union of boxes that are broadcast against each other; 0/0 is NaN."""
  corners = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
  shared = jnp.prod(jnp.maximum(corners, 0), axis=-1)
  areas = (jnp.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b))
  return shared / (sum(areas) - shared)


def complete_iou(
  a: Float[Array, "... 4"], b: Float[Array, "... 4"], epsilon: float = 1e-7
) -> Float[Array, "..."]:
  """CIoU (Zheng et al., arXiv 1911.08287): IoU less the distance of centres and of aspect ratios.

  The weight of the aspect ratios' term is a constant for the gradient, as in the paper.
  The boxes are broadcast against each other; `epsilon` keeps the quotients finite.
  """
  width_a, height_a = a[..., 2] - a[..., 0], a[..., 3] - a[..., 1] + epsilon
  width_b, height_b = b[..., 2] - b[..., 0], b[..., 3] - b[..., 1] + epsilon
  corners = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
  shared = jnp.maximum(corners[..., 0], 0) * jnp.maximum(corners[..., 1], 0)
  iou = shared / (width_a * height_a + width_b * height_b - shared + epsilon)
  hull = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
  diagonal = hull[..., 0] ** 2 + hull[..., 1] ** 2 + epsilon
  apart = a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]
  distance = (apart[..., 0] ** 2 + apart[..., 1] ** 2) / 4
  angle = jnp.arctan(width_b / height_b) - jnp.arctan(width_a / height_a)
  aspect = 4 / math.pi**2 * angle**2
  weight = jax.lax.stop_gradient(aspect / (aspect - iou + 1 + epsilon))
  return iou - distance / diagonal - weight * aspect
