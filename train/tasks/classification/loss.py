"""Losses with label smoothing and mixed labels, and what is counted of an evaluation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Targets(NamedTuple):
  """What the logits of images are to be, where an image may be made of two."""

  label: Int[Array, "batch"]  # class of the image
  other: Int[Array, "batch"]  # class of the image that is mixed in
  share: Float[Array, "batch"]  # of `label`, from 0 to 1; the rest is the other's


def unmixed(labels: Int[Array, "batch"]) -> Targets:
  """Of images that are made of one alone."""
  return Targets(labels, labels, jnp.ones(labels.shape))


def cross_entropy(
  logits: Float[Array, "batch classes"], targets: Targets, smoothing: float = 0.0
) -> Float[Array, "batch"]:
  """Cross-entropy with label smoothing: the target is 1 - s + s / classes (arXiv 1512.00567).

  For images made of two it is the mean of both labels' by share (arXiv 1710.09412).
  """
  log_probs = jax.nn.log_softmax(logits)
  own, other = (
    jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    for labels in (targets.label, targets.other)
  )
  share = targets.share.astype(logits.dtype)
  picked = share * own + (1 - share) * other
  return -(1 - smoothing) * picked - smoothing * jnp.mean(log_probs, axis=1)


def binary_cross_entropy(
  logits: Float[Array, "batch classes"], targets: Targets, smoothing: float = 0.0
) -> Float[Array, "batch"]:
  """Every class a question of its own: mean over the classes of the logistic loss.

  The targets are those of `cross_entropy`. Wightman et al., arXiv 2110.00476, section 3.
  """
  wanted = smoothing / logits.shape[1] + (1 - smoothing) * _shares(targets, logits)
  losses = jax.nn.softplus(logits) - wanted * logits
  return jnp.mean(losses, axis=1)


def _shares(targets: Targets, logits) -> Float[Array, "batch classes"]:
  classes = jnp.arange(logits.shape[1])
  share = targets.share.astype(logits.dtype)[:, None]
  return jnp.where(targets.label[:, None] == classes, share, 0) + jnp.where(
    targets.other[:, None] == classes, 1 - share, 0
  )


LOSSES = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}


def correct(logits: Float[Array, "batch classes"], targets: Targets) -> Float[Array, "batch"]:
  """How much of each target the likeliest class is: 1 or 0, and a share where images are mixed."""
  told = jnp.argmax(logits, axis=1)
  own, other = (told == labels for labels in (targets.label, targets.other))
  return jnp.where(own, targets.share, 0) + jnp.where(other, 1 - targets.share, 0)


def masked_sums(
  logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], mask: Bool[Array, "batch"]
) -> dict[str, Array]:
  """Sums of loss, correct at 1 and at 5, and count; what the mask leaves out counts nowhere."""
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  # As argmax and top_k do, of equal logits the lower class comes first.
  earlier = jnp.arange(logits.shape[1]) < labels[:, None]
  rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=1)
  # Nothing is greater than nan and nan is greater than nothing, but it gives no right answer.
  rank = jnp.where(jnp.isnan(logits).any(axis=1), logits.shape[1], rank)
  return {
    "loss": jnp.sum(jnp.where(mask, cross_entropy(logits, unmixed(labels)), 0)),
    "top1": jnp.sum(mask & (rank < 1)),
    "top5": jnp.sum(mask & (rank < min(5, logits.shape[1]))),
    "count": jnp.sum(mask),
  }
