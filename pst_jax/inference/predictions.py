"""What is said of an image: its likeliest classes, or the boxes on it."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pst_jax.compiler import compiler_options
from pst_jax.detection import Found
from pst_jax.errors import UserError
from pst_jax.inference.predictor import Predictor


class Prediction(NamedTuple):
  """A class that an image may be of, its name (None: unknown) and its probability by softmax."""

  index: int
  name: str | None
  probability: float


class Detection(NamedTuple):
  """An object that was found: its class, the score from 0 to 1, and x1, y1, x2, y2 in pixels."""

  index: int
  name: str | None
  score: float
  box: tuple[float, float, float, float]


def compiled(predictor: Predictor, *, explained: bool = False) -> Callable:
  """The function (images) -> `predictor.run`, or `predictor.explain`, compiled."""
  function = predictor.explain if explained else predictor.run
  jitted = jax.jit(function, compiler_options=compiler_options())
  return functools.partial(jitted, predictor.variables)


def likeliest(
  logits: Float[np.ndarray, "num_classes"], names: Sequence[str] | None, count: int
) -> list[Prediction]:
  """The `count` classes of the highest logits, the highest first.

  Raises:
    UserError: a logit is NaN or infinite.
  """
  if not np.isfinite(logits).all():
    raise UserError("the logits hold NaN or infinity: the weights or their metadata are damaged")
  odds = np.exp(logits - logits.max(), dtype=np.float64)
  probabilities = odds / odds.sum()
  # Stable: of equal ones the lower class comes first, as in the evaluation.
  order = np.argsort(-logits, kind="stable")[:count]
  return [
    Prediction(int(i), None if names is None else names[i], float(probabilities[i])) for i in order
  ]


def detections(found: Found, names: Sequence[str] | None) -> list[Detection]:
  """The boxes of one image that are valid, in falling score; its arrays have no batch axis.

  Raises:
    UserError: a box or score is NaN or infinite.
  """
  if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
    raise UserError("the boxes hold NaN or infinity: the weights or their metadata are damaged")
  return [
    Detection(int(label), None if names is None else names[label], float(score), tuple(box))
    for box, score, label, is_valid in zip(found.boxes.tolist(), *found[1:], strict=True)
    if is_valid
  ]
