"""Predictions: the likeliest classes of images, by name."""

import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pst_jax.compiler import compiler_options
from pst_jax.convert.metadata import Metadata
from pst_jax.inference import Classifier


class Prediction(NamedTuple):
  """Attributes:
  index: of the class among the logits.
  name: of the class; None: unknown.
  probability: by softmax, from 0 to 1.
  """

  index: int
  name: str | None
  probability: float


def class_names(metadata: Metadata) -> tuple[str, ...] | None:
  """Names in the order of the logits: the weights' own, or ImageNet's where there are 1000 classes.

  Raises:
    ValueError: the weights name more or fewer classes than they have.
  """
  names, count = metadata.class_names, metadata.options["num_classes"]
  if names is None:
    return imagenet_classes() if count == 1000 else None
  if len(names) != count:
    raise ValueError(
      f"the weights have {count} classes, but their metadata names {len(names)}: convert them again"
    )
  return names


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
  """The 1000 names of ImageNet (ILSVRC 2012); the file says where they come from."""
  text = importlib.resources.files("pst_jax").joinpath("imagenet_classes.txt").read_text("utf-8")
  return tuple(line for line in text.splitlines() if not line.startswith("#"))


def compiled(classifier: Classifier, *, explained: bool = False) -> Callable:
  """The function (images) -> `classifier.logits`, or `explained_logits`, compiled."""
  function = classifier.explained_logits if explained else classifier.logits
  jitted = jax.jit(function, compiler_options=compiler_options())
  return functools.partial(jitted, classifier.variables)


def likeliest(
  logits: Float[np.ndarray, "num_classes"], names: Sequence[str] | None, count: int
) -> list[Prediction]:
  """The `count` classes of the highest logits, the highest first.

  Raises:
    ValueError: a logit is NaN or infinite.
  """
  if not np.isfinite(logits).all():
    raise ValueError("the logits hold NaN or infinity: the weights or their metadata are damaged")
  odds = np.exp(logits - logits.max(), dtype=np.float64)
  probabilities = odds / odds.sum()
  # Stable: of equal ones the lower class comes first, as in the evaluation.
  order = np.argsort(-logits, kind="stable")[:count]
  return [
    Prediction(int(i), None if names is None else names[i], float(probabilities[i])) for i in order
  ]
