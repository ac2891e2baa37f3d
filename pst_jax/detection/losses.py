"""The loss of a detector: boxes by CIoU, sides by distribution focal loss, classes by BCE."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pst_jax.detection.assignment import Targets, assign_anchors
from pst_jax.detection.decoding import BINS, Maps, boxes_in_strides, read_maps
from pst_jax.ops.boxes import complete_iou

GAINS = {"box": 7.5, "classes": 0.5, "dfl": 1.5}


class LossTerms(NamedTuple):
  """Sums over examples, which may be added up over the parts of a batch.

  Attributes:
    box: sum of (1 - CIoU) times the target score, over foreground anchors, times its gain.
    classes: sum of the binary cross-entropies, times its gain.
    dfl: sum of the distribution focal losses times the target score, times its gain.
    weight: sum of the target scores.
  """

  box: Float[Array, ""]
  classes: Float[Array, ""]
  dfl: Float[Array, ""]
  weight: Float[Array, ""]


class Losses(NamedTuple):
  """The loss of a batch and its terms.

  Attributes:
    box, classes, dfl: the terms, gains in, divided by the sum of target scores (1 if it is less).
    total: their sum times the number of images: what is trained.
    weight: sum of the target scores.
  """

  box: Float[Array, ""]
  classes: Float[Array, ""]
  dfl: Float[Array, ""]
  total: Float[Array, ""]
  weight: Float[Array, ""]


def loss(maps: Maps, targets: Targets) -> Losses:
  """The loss of a whole batch; arguments and errors as `assign`."""
  terms = loss_terms(maps, targets)
  items = [term / jnp.maximum(terms.weight, 1) for term in terms[:3]]
  return Losses(*items, total=sum(items) * maps[0].shape[0], weight=terms.weight)


def loss_terms(maps: Maps, targets: Targets) -> LossTerms:
  """The sums behind `loss`, for a batch that comes in parts.

  With the terms of all parts added up and B images in all, `loss` of the whole batch has the total
  B * (box + classes + dfl) / max(weight, 1). No gradient flows through the weight.
  Arguments and errors as `assign`.
  """
  anchors = read_maps(maps)
  assigned = assign_anchors(anchors, targets)
  worth = jnp.sum(assigned.scores, axis=-1)
  box = jnp.take_along_axis(targets.boxes.astype(worth.dtype), assigned.index[..., None], axis=1)
  # Where there is no box the anchor's own cell stands in: no NaN can come from it.
  cell = jnp.concatenate([anchors.points - 0.5, anchors.points + 0.5], axis=-1)
  box = jnp.where(assigned.foreground[..., None], box / anchors.strides, cell)
  overlap = complete_iou(boxes_in_strides(anchors), box)
  sums = {
    "box": jnp.sum((1 - overlap) * worth),
    "classes": jnp.sum(_binary_cross_entropy(anchors.classes, assigned.scores)),
    "dfl": jnp.sum(_distribution_focal(anchors, box) * worth),
  }
  return LossTerms(**{name: GAINS[name] * sums[name] for name in GAINS}, weight=jnp.sum(worth))


def _binary_cross_entropy(logits, target):
  return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def _distribution_focal(anchors, box):
  """Cross-entropy of each side's bins with the two bins around its distance, mean of four sides.

  Distribution focal loss, Li et al., arXiv 2006.04388.
  """
  near, far = anchors.points - box[..., :2], box[..., 2:] - anchors.points
  distance = jnp.clip(jnp.concatenate([near, far], axis=-1), 0, BINS - 1 - 0.01)
  # The weights of the two bins around the distance, and 0 elsewhere.
  weights = jnp.maximum(1 - jnp.abs(distance[..., None] - jnp.arange(BINS)), 0)
  losses = -jnp.sum(weights * jax.nn.log_softmax(anchors.sides, axis=-1), axis=-1)
  return jnp.mean(losses, axis=-1)
