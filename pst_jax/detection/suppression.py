"""Non-maximum suppression with fixed shapes: it drops no image and has no time limit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pst_jax.ops.boxes import pairwise_iou

MAX_CANDIDATES = 30_000


class Found(NamedTuple):
  """The boxes of a batch (x1, y1, x2, y2) in falling score, padded to one number for all images.

  `valid` says whether there is one; where there is none all else is 0.
  """

  boxes: Float[Array, "batch found 4"]
  scores: Float[Array, "batch found"]
  classes: Int[Array, "batch found"]
  valid: Bool[Array, "batch found"]


def non_max_suppression(
  boxes: Float[Array, "batch anchors 4"],
  scores: Float[Array, "batch anchors classes"],
  *,
  score_threshold: float = 0.25,
  iou_threshold: float = 0.7,
  max_detections: int = 300,
  multi_label: bool = False,
  class_agnostic: bool = False,
) -> Found:
  """The best boxes, without those that overlap a better one of their class.

  Candidates are the boxes, each with its best class, or (`multi_label`) all pairs of box and class,
  the 30,000 best of them. They are taken by falling score (of equals the lower index), and each
  removes those behind it whose IoU with it is above the threshold.

  Args:
    boxes: x1, y1, x2, y2.
    score_threshold: candidates have a higher score.
    iou_threshold: largest overlap of two boxes that both stay.
    max_detections: length of the result.
    multi_label: a box may be found for several classes, as evaluation on COCO does.
    class_agnostic: boxes remove those of other classes too.
  """
  each = jax.vmap(
    lambda boxes, scores: _suppress(
      *_candidates(boxes, scores, score_threshold, multi_label),
      iou_threshold,
      max_detections,
      class_agnostic,
    )
  )
  return each(boxes, scores)


def _candidates(boxes, scores, threshold, multi_label):
  """Boxes, scores (-inf: none) and classes in falling score."""
  num_classes = scores.shape[-1]
  if multi_label:
    values = scores.reshape(-1)
  else:
    values, classes = jnp.max(scores, axis=-1), jnp.argmax(scores, axis=-1)
  # NaN stays, and comes first: a broken network must not look like one that finds nothing.
  values = jnp.where(values <= threshold, -jnp.inf, values)
  values, index = jax.lax.top_k(values, min(MAX_CANDIDATES, values.shape[0]))
  if multi_label:
    return boxes[index // num_classes], values, index % num_classes
  return boxes[index], values, classes[index]


def _suppress(boxes, scores, classes, iou_threshold, max_detections, class_agnostic):
  def keep_next(left, _):
    # The candidates are in falling score: the first one that is left is the best.
    chosen = jnp.argmax(left)
    beaten = pairwise_iou(boxes[chosen], boxes) > iou_threshold
    if not class_agnostic:
      beaten &= classes == classes[chosen]
    found = left[chosen]
    left = left & ~beaten & (jnp.arange(len(left)) != chosen)
    return left, (chosen, found)

  _, (chosen, valid) = jax.lax.scan(keep_next, scores != -jnp.inf, length=max_detections)
  return Found(
    jnp.where(valid[:, None], boxes[chosen], 0),
    jnp.where(valid, scores[chosen], 0),
    jnp.where(valid, classes[chosen], 0),
    valid,
  )
