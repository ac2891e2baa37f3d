"""Raw maps as boxes and scores (distribution focal form, Li et al., arXiv 2006.04388)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pst_jax.errors import UserError
from pst_jax.ops.attention import accumulation_dtype

STRIDES = (8, 16, 32)
"""Pixels of the image per position of the three maps."""
BINS = 16
"""Bins of the distance from an anchor to a side: 0 to 15 strides."""

Maps = Sequence[Float[Array, "batch height width channels"]]


class Anchors(NamedTuple):
  """What the maps say at every position: level after level, each row after row.

  Attributes:
    sides: logits of the bins of left, top, right, bottom [batch, anchors, 4, BINS].
    classes: logits [batch, anchors, classes].
    points: middle of the position, in strides [anchors, 2].
    strides: pixels [anchors, 1].
  """

  sides: Float[Array, "batch anchors 4 bins"]
  classes: Float[Array, "batch anchors classes"]
  points: Float[Array, "anchors 2"]
  strides: Float[Array, "anchors 1"]


def read_maps(maps: Maps) -> Anchors:
  """The maps of all levels in one row of anchors, in float32 or wider.

  Raises:
    UserError: they are not three maps of 64 + classes channels.
  """
  if len(maps) != len(STRIDES) or any(each.shape[-1] <= 4 * BINS for each in maps):
    shapes = ", ".join(str(each.shape) for each in maps)
    raise UserError(
      f"maps of shapes {shapes or 'none'} were given, but a detector's are {len(STRIDES)} of "
      f"{4 * BINS} + classes channels: give what its apply returned"
    )
  dtype = accumulation_dtype(maps[0].dtype)
  rows = [each.reshape(each.shape[0], -1, each.shape[-1]) for each in maps]
  joined = jnp.concatenate(rows, axis=1).astype(dtype)
  points, strides = [], []
  for each, stride in zip(maps, STRIDES, strict=True):
    height, width = each.shape[1:3]
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    points.append(jnp.stack([x, y], axis=-1).reshape(-1, 2) + 0.5)
    strides.append(jnp.full((height * width, 1), stride))
  return Anchors(
    joined[..., : 4 * BINS].reshape(*joined.shape[:2], 4, BINS),
    joined[..., 4 * BINS :],
    jnp.concatenate(points).astype(dtype),
    jnp.concatenate(strides).astype(dtype),
  )


def boxes_in_strides(anchors: Anchors) -> Float[Array, "batch anchors 4"]:
  """x1, y1, x2, y2 in strides: the mean of every side's bins is its distance from the point."""
  bins = jnp.arange(BINS, dtype=anchors.sides.dtype)
  distances = jnp.sum(jax.nn.softmax(anchors.sides, axis=-1) * bins, axis=-1)
  near, far = jnp.split(distances, 2, axis=-1)
  return jnp.concatenate([anchors.points - near, anchors.points + far], axis=-1)


def decode(
  maps: Maps,
) -> tuple[Float[Array, "batch anchors 4"], Float[Array, "batch anchors classes"]]:
  """Boxes x1, y1, x2, y2 in pixels of the network's input, not clipped to it, and scores in 0..1.

  One box and the scores of all classes for every anchor: 8,400 of them at 640 x 640 pixels. Raises
  UserError for maps that are not a detector's.
  """
  anchors = read_maps(maps)
  return boxes_in_strides(anchors) * anchors.strides, jax.nn.sigmoid(anchors.classes)
