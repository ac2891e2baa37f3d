"""Task-aligned assignment of anchors to boxes (TOOD, Feng et al., arXiv 2108.07755)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pst_jax.detection.decoding import Anchors, Maps, boxes_in_strides, read_maps
from pst_jax.errors import UserError
from pst_jax.ops.boxes import complete_iou
from pst_jax.ops.selection import take_largest

TOP_ANCHORS, SCORE_POWER, OVERLAP_POWER = 10, 0.5, 6.0
EPSILON = 1e-9
# Boxes that are compared with all anchors at a time.
CHUNK = 10


class Targets(NamedTuple):
  """The boxes of a batch, padded to one number n for all images.

  Attributes:
    boxes: x1, y1, x2, y2 in pixels of the network's input.
    classes: of the boxes.
    valid: False for padding, whose boxes and classes mean nothing.
  """

  boxes: Float[Array, "batch n 4"]
  classes: Int[Array, "batch n"]
  valid: Bool[Array, "batch n"]


class Assignment(NamedTuple):
  """Which box every anchor answers for.

  Attributes:
    foreground: whether the anchor answers for a box.
    index: which box of its image; 0 for the background.
    scores: what the class scores should be: 0 but for the box's class, where it is the higher the
      better the anchor fits among those of its box.
  """

  foreground: Bool[Array, "batch anchors"]
  index: Int[Array, "batch anchors"]
  scores: Float[Array, "batch anchors classes"]


def assign(maps: Maps, targets: Targets) -> Assignment:
  """Which anchors answer for which boxes; no gradient flows through it.

  Every box keeps the 10 anchors inside it of the largest score^0.5 * CIoU^6; an anchor that several
  boxes keep goes to the one that it overlaps most. Boxes are taken 10 at a time, so at 16 images of
  8,400 anchors an array is 5.4 MB (float32), however many boxes there are; with all 100 boxes at a
  time it would be 54 MB.

  Raises:
    UserError: the maps are not a detector's, or the targets are not of its batch.
  """
  return assign_anchors(read_maps(maps), targets)


def assign_anchors(anchors: Anchors, targets: Targets) -> Assignment:
  """`assign` for maps that have been read."""
  _check_targets(anchors, targets)
  anchors = jax.tree.map(jax.lax.stop_gradient, anchors)
  predicted = boxes_in_strides(anchors) * anchors.strides
  points = anchors.points * anchors.strides
  scores = jax.nn.sigmoid(anchors.classes)
  targets = targets._replace(boxes=targets.boxes.astype(predicted.dtype))
  foreground, index = _choose(points, predicted, scores, targets)

  # What the chosen pairs are worth, per box relative to its best anchor.
  box = jnp.take_along_axis(targets.boxes, index[..., None], axis=1)
  label = jnp.take_along_axis(targets.classes, index, axis=1)
  is_class = label[..., None] == jnp.arange(scores.shape[-1])
  score = jnp.sum(jnp.where(is_class, scores, 0), axis=-1)
  inside = foreground & _is_inside(points, box)
  overlap = jnp.where(inside, jnp.maximum(complete_iou(box, predicted), 0), 0)
  metric = score**SCORE_POWER * overlap**OVERLAP_POWER
  best_metric, best_overlap = (
    jnp.take_along_axis(_largest_of_box(x, index, targets.valid.shape[1]), index, axis=1)
    for x in (metric, overlap)
  )
  worth = jnp.where(foreground, metric * best_overlap / (best_metric + EPSILON), 0)
  return Assignment(foreground, index, jnp.where(is_class, worth[..., None], 0))


def _check_targets(anchors, targets):
  batch, boxes = anchors.classes.shape[0], targets.boxes.shape
  if len(boxes) != 3 or boxes[0] != batch or boxes[2] != 4 or not boxes[1]:
    raise UserError(
      f"targets.boxes is {list(boxes)}, but for these maps it must be [{batch}, n, 4] with n from "
      "1: pad with valid=False where there are fewer boxes"
    )
  for name in ("classes", "valid"):
    if getattr(targets, name).shape != boxes[:2]:
      raise UserError(
        f"targets.{name} is {list(getattr(targets, name).shape)}, but it must be "
        f"{list(boxes[:2])}, as targets.boxes is"
      )


def _is_inside(points, boxes):
  """Whether points [anchors, 2] lie inside boxes [..., 4] that are broadcast against them."""
  edges = jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
  return jnp.min(edges, axis=-1) > EPSILON


def _choose(points, predicted, scores, targets):
  """Foreground and box index of every anchor."""
  batch, num_anchors = predicted.shape[:2]
  chunks = _in_chunks(targets)
  by_class = jnp.swapaxes(scores, 1, 2)

  def look_at(seen, chunk):
    first, boxes, classes, valid = chunk
    inside = _is_inside(points, boxes[:, :, None]) & valid[..., None]
    overlap = complete_iou(boxes[:, :, None], predicted[:, None])
    overlap = jnp.where(inside, jnp.maximum(overlap, 0), 0)
    score = jnp.take_along_axis(by_class, classes[..., None], axis=1, mode="clip")
    kept = _largest(score**SCORE_POWER * overlap**OVERLAP_POWER, TOP_ANCHORS) & inside
    # A larger overlap in an earlier box, or an equal one, wins: the lowest index of equals.
    best = jnp.max(overlap, axis=1)
    nearest = first + _first_true(overlap == best[:, None])
    is_better = best > seen["overlap"]
    return {
      "keepers": seen["keepers"] + jnp.sum(kept, axis=1, dtype=jnp.int32),
      "keeper": jnp.where(jnp.any(kept, axis=1), first + _first_true(kept), seen["keeper"]),
      "overlap": jnp.where(is_better, best, seen["overlap"]),
      "nearest": jnp.where(is_better, nearest, seen["nearest"]),
    }

  nothing = jnp.zeros((batch, num_anchors), jnp.int32)
  seen = {
    "keepers": nothing,
    "keeper": nothing,
    "overlap": jnp.zeros_like(predicted[..., 0]),
    "nearest": nothing,
  }

  def look_if_any(seen, chunk):
    # Padding costs nothing: most batches have far fewer boxes than they have room for.
    return jax.lax.cond(jnp.any(chunk[-1]), look_at, lambda seen, _: seen, seen, chunk), None

  seen, _ = jax.lax.scan(look_if_any, seen, chunks)
  index = jnp.where(seen["keepers"] > 1, seen["nearest"], seen["keeper"])
  return seen["keepers"] > 0, index


def _in_chunks(targets):
  """Number of the first box, boxes, classes and validity, of CHUNK boxes at a time."""
  count = targets.valid.shape[1]
  size = min(count, CHUNK)
  chunks = math.ceil(count / size)

  def split(x):
    padding = [(0, 0), (0, chunks * size - count)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, padding)
    return jnp.moveaxis(x.reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)

  first = jnp.arange(chunks, dtype=jnp.int32) * size
  return first, *(split(x) for x in targets)


def _largest(x, k):
  """True for the k largest values along the last axis; of equal ones the lower index."""
  # Not lax.top_k: the partitioner of XLA for CPUs would gather the batch of all devices for it.
  nothing = jnp.zeros(x.shape, bool)
  return jax.lax.fori_loop(
    0, min(k, x.shape[-1]), lambda _, taken: take_largest(x, taken)[1], nothing
  )


def _largest_of_box(x, index, num_boxes):
  """For every box of an image the largest `x`, which is not negative, of its anchors."""
  return jax.vmap(lambda x, index: jnp.zeros(num_boxes, x.dtype).at[index].max(x))(x, index)


def _first_true(x):
  return jnp.argmax(x, axis=1).astype(jnp.int32)
