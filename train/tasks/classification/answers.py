"""What a classifier answered for every image of an evaluation, and what follows from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pst_jax.wording import aligned

BINS = 15
"""Of confidence, as Guo et al. have them (arXiv 1706.04599)."""
SHOWN = 20
"""Classes that a table for the terminal has, at most; a confusion matrix half as many."""


class Answers(NamedTuple):
  """Of images in the order of the split; an array for each batch until they are `joined`."""

  position: Int[np.ndarray, " images"]  # in the split
  label: Int[np.ndarray, " images"]
  predicted: Int[np.ndarray, " images"]  # -1: the logits are not finite
  confidence: Float[np.ndarray, " images"]  # softmax of what was predicted

  @property
  def is_right(self):
    return self.label == self.predicted


class Bin(NamedTuple):
  """Images of like confidence."""

  images: int
  confidence: float  # mean
  accuracy: float


def joined(batches: Sequence[Answers]) -> Answers:
  """All images in the order of the split."""
  parts = Answers(*map(np.concatenate, zip(*batches, strict=True)))
  order = np.argsort(parts.position, kind="stable")
  return Answers(*(part[order] for part in parts))


def confusion(answers: Answers, num_classes: int) -> Int[np.ndarray, "classes classes"]:
  """How many images of each class (rows) were taken for each class (columns)."""
  told = answers.predicted >= 0
  flat = answers.label[told] * num_classes + answers.predicted[told]
  return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def calibration(answers: Answers) -> tuple[float, list[Bin]]:
  """Expected calibration error and the bins that have images.

  The error is the mean over the images of |accuracy - mean confidence| of their bin; the bins are
  of equal width (Guo et al., arXiv 1706.04599, equation 3).
  """
  number = np.clip(np.ceil(answers.confidence * BINS).astype(int) - 1, 0, BINS - 1)
  bins = [
    Bin(
      int(mine.sum()),
      float(answers.confidence[mine].mean()),
      float(answers.is_right[mine].mean()),
    )
    for mine in (number == each for each in range(BINS))
    if mine.any()
  ]
  total = sum(each.images for each in bins)
  error = sum(each.images / total * abs(each.accuracy - each.confidence) for each in bins)
  return error, bins


class OfClass(NamedTuple):
  """A row of the table of classes."""

  name: str
  images: int
  accuracy: float
  confidence: float  # mean, of the images of the class
  taken_for: str  # the class that most of its mistakes were taken for
  mistakes: int  # how many of them were


def by_class(answers: Answers, names: Sequence[str]) -> list[OfClass]:
  """A row for each class that has images."""
  counts = confusion(answers, len(names))
  wrong = counts - np.diag(np.diag(counts))
  rows = []
  for label, name in enumerate(names):
    mine = answers.label == label
    if mine.any():
      other = int(wrong[label].argmax())
      accuracy, sure = answers.is_right[mine].mean(), answers.confidence[mine].mean()
      most = int(wrong[label, other])
      rows.append(OfClass(name, mine.sum(), accuracy, sure, names[other] if most else "", most))
  return rows


def text(answers: Answers, names: Sequence[str]) -> str:
  """The table of classes, the worst ones if they are many; the confusion matrix; calibration."""
  rows, heads = by_class(answers, names), ("class", "images", "top-1 %", "sure %", "taken for")
  note = ""
  if len(rows) > SHOWN:
    note = f" (the {SHOWN} worst of {len(rows)}; --classes FILE has all)"
    rows = sorted(rows, key=lambda row: row.accuracy)[:SHOWN]
  cells = [
    (r.name, str(r.images), f"{100 * r.accuracy:.2f}", f"{100 * r.confidence:.2f}", _mistakes(r))
    for r in rows
  ]
  parts = [f"classes{note}:\n{aligned([heads, *cells])}"]
  if len(names) <= SHOWN // 2:
    counts = zip(names, confusion(answers, len(names)).tolist(), strict=True)
    matrix = [("is / taken for", *names), *((name, *map(str, row)) for name, row in counts)]
    parts.append(aligned(matrix))
  error, _ = calibration(answers)
  sure, right = answers.confidence.mean(), answers.is_right.mean()
  parts.append(
    f"expected calibration error {100 * error:.2f} % ({BINS} bins): sure to {100 * sure:.2f} % on"
    f" average, right in {100 * right:.2f} %"
  )
  return "\n\n".join(parts)


def _mistakes(row: OfClass) -> str:
  return f"{row.taken_for} ({row.mistakes})" if row.mistakes else "-"
