"""Cross-entropy of logits, with label smoothing and mixed labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Targets(NamedTuple):
  """What the logits of images shall be, where an image may be made of two.

  Attributes:
    label: class of the image.
    other: class of the image that is mixed in.
    share: of `label`, from 0 to 1; the rest is the other's.
  """

  label: Int[Array, "batch"]
  other: Int[Array, "batch"]
  share: Float[Array, "batch"]


def cross_entropy(
  logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], smoothing: float = 0.0
) -> Float[Array, "batch"]:
  """Cross-entropy with label smoothing: the target is 1 - s + s / classes (arXiv 1512.00567)."""
  log_probs = jax.nn.log_softmax(logits)
  return _smooth(log_probs, _picked(log_probs, labels), smoothing)


def mixed_cross_entropy(
  logits: Float[Array, "batch classes"], targets: Targets, smoothing: float = 0.0
) -> Float[Array, "batch"]:
  """`cross_entropy` of images made of two: the mean of both labels' by share (arXiv 1710.09412)."""
  log_probs = jax.nn.log_softmax(logits)
  own, other = (_picked(log_probs, each) for each in (targets.label, targets.other))
  share = targets.share.astype(logits.dtype)
  return _smooth(log_probs, share * own + (1 - share) * other, smoothing)


def _picked(log_probs, labels):
  return jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]


def _smooth(log_probs, picked, smoothing):
  return -(1 - smoothing) * picked - smoothing * jnp.mean(log_probs, axis=1)
