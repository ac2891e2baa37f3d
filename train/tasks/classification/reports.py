"""What `train.evaluate` writes of a classifier beyond its metrics."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from pst_jax.files import write_output
from pst_jax.inference.drawing import Picture, encode_png
from pst_jax.letterbox import letterbox, letterbox_geometry
from train.data.drawing import draw_grid
from train.tasks.base import save_figure
from train.tasks.classification.answers import by_class, calibration, confusion, joined

PICTURES, PICTURE_SIDE = 16, 200
_MOST_NAMES = 40
"""Classes whose names stand on the axes of a confusion matrix, at most."""


def names_of(dataset) -> Sequence[str]:
  """Of the classes; their numbers where they have no names."""
  return dataset.class_names or tuple(map(str, range(dataset.num_classes)))


def _write_predictions(path, total, dataset, *, force: bool) -> None:
  answers, names = joined(total["answers"]), names_of(dataset)
  rows = (
    (
      int(position),
      dataset.eval[int(position)]["name"],
      names[label],
      names[predicted] if predicted >= 0 else "",
      f"{confidence:.6f}",
      int(label == predicted),
    )
    for position, label, predicted, confidence in zip(*answers, strict=True)
  )
  heads = ("position", "image", "label", "predicted", "confidence", "right")
  _write_csv(path, heads, rows, force=force)


def _write_classes(path, total, dataset, *, force: bool) -> None:
  rows = by_class(joined(total["answers"]), names_of(dataset))
  heads = ("class", "images", "top1", "confidence", "taken_for", "mistakes")
  cells = (
    (r.name, r.images, f"{r.accuracy:.6f}", f"{r.confidence:.6f}", r.taken_for, r.mistakes)
    for r in rows
  )
  _write_csv(path, heads, cells, force=force)


def _write_csv(path, heads: Sequence[str], rows: Iterable[tuple], *, force: bool) -> None:
  content = io.StringIO()
  csv.writer(content, lineterminator="\n").writerows([heads, *rows])
  write_output(path, content.getvalue().encode(), force=force)
  print(f"written: {path}")


def _write_confusion(path, total, dataset, *, force: bool) -> None:
  """Shares of each class's images, the class in a row."""
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  names = names_of(dataset)
  counts = confusion(joined(total["answers"]), len(names))
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  side = min(max(4.8, 1.6 + 0.32 * len(names)), 14)
  figure = Figure(figsize=(side, side), layout="constrained")
  axes = figure.subplots()
  drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
  axes.set(xlabel="taken for", ylabel="is")
  if len(names) <= _MOST_NAMES:
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
  if len(names) <= _MOST_NAMES // 2:
    for row, column in zip(*np.nonzero(counts), strict=True):
      colour = "white" if shares[row, column] > 0.5 else "black"
      axes.text(
        column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8
      )
  figure.colorbar(drawn, ax=axes, shrink=0.7, label="share of the class")
  save_figure(path, figure, force=force)


def _write_reliability(path, total, dataset, *, force: bool) -> None:
  """Accuracy against confidence, and how many images have which."""
  from matplotlib.figure import Figure

  error, bins = calibration(joined(total["answers"]))
  images = sum(each.images for each in bins)
  figure = Figure(figsize=(5.6, 5.6), layout="constrained")
  upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  upper.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
  upper.plot([each.confidence for each in bins], [each.accuracy for each in bins], "o-")
  upper.set(ylabel="right", ylim=(0, 1.02), title=f"expected calibration error {100 * error:.2f} %")
  upper.grid(alpha=0.3)
  lower.bar([each.confidence for each in bins], [each.images / images for each in bins], width=0.04)
  lower.set(xlabel="confidence", ylabel="share of the images", xlim=(0, 1.02))
  save_figure(path, figure, force=force)


def _write_mistakes(path, total, dataset, *, force: bool) -> None:
  """The wrong answers that the network was surest of."""
  answers, names = joined(total["answers"]), names_of(dataset)
  wrong = np.flatnonzero(~answers.is_right & (answers.predicted >= 0))
  order = wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:PICTURES]
  pictures = []
  for index in order:
    position, label, predicted, confidence = (each[index] for each in answers)
    image = dataset.decode(dataset.eval[int(position)]["image"])
    place = letterbox_geometry(*image.shape[:2], (PICTURE_SIDE, PICTURE_SIDE))
    caption = f"{names[label]} as {names[predicted]} {confidence:.0%}"
    pictures.append(Picture(letterbox(image, place), caption))
  if not pictures:
    print(f"not written: {path} (there are no mistakes)")
    return
  write_output(path, encode_png(draw_grid(pictures)), force=force)
  print(f"written: {path} ({len(pictures)} mistakes of {len(wrong)}, the surest first)")


FILES = {
  "predictions": _write_predictions,
  "classes": _write_classes,
  "confusion": _write_confusion,
  "reliability": _write_reliability,
  "mistakes": _write_mistakes,
}
"""By the name of the option of `train.evaluate`: (path, total, dataset, force) -> nothing."""
