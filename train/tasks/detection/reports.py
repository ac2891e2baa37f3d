"""What `train.evaluate` says and writes of an evaluation beyond COCO's figures."""

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np

from pst_jax.errors import ImageError, UserError
from pst_jax.files import atomic_write, write_output
from pst_jax.inference.drawing import Picture, encode_png
from pst_jax.letterbox import letterbox, letterbox_geometry
from train.data.drawing import draw_grid
from train.tasks.base import save_figure
from train.tasks.detection.mean_ap import IOU_THRESHOLDS, RECALLS, MeanAP, Records, Result, mean_of

# Of the grid of pictures: how many, pixels of each, and what is worth drawing.
PICTURES, PICTURE_SIDE, LEAST_SCORE = 16, 320, 0.25
_COLUMNS = ("map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
_ALL_AREAS, _HUNDRED = 0, 2


def class_table(result: Result, class_names: Sequence[str]) -> list[dict]:
  """A row for each class: its name, images, boxes, and figures; -1 where it has no such box."""
  arrays = {"precision": result.precision, "recall": result.recall}
  return [
    {"class": name, "images": int(result.images[i]), "boxes": int(result.boxes[i])}
    | {figure: mean_of(arrays, figure, slice(i, i + 1)) for figure in _COLUMNS}
    for i, name in enumerate(class_names)
  ]


def class_table_text(result: Result, class_names: Sequence[str]) -> str:
  """The table for a terminal, in percent, with the means over classes in its first row."""
  total = {"class": "all", "images": "", "boxes": int(result.boxes.sum())}
  rows = [total | {name: result.figures[name] for name in _COLUMNS}]
  rows += class_table(result, class_names)
  width = max(len(row["class"]) for row in rows)
  heads = ("mAP", "AP50", "AP75", "small", "medium", "large", "AR100")
  lines = [f"{'class':{width}} {'images':>7} {'boxes':>7} " + " ".join(f"{h:>6}" for h in heads)]
  for row in rows:
    values = " ".join(_percent(row[name]) for name in _COLUMNS)
    lines.append(f"{row['class']:{width}} {row['images']:>7} {row['boxes']:>7} {values}")
  return "\n".join(lines)


def _percent(value: float) -> str:
  return f"{100 * value:6.2f}" if value >= 0 else f"{'-':>6}"


def _write_detections(path, total: MeanAP, dataset, *, force: bool) -> None:
  count = write_detections(path, total, dataset.category_ids, force=force)
  print(f"written: {path} ({count} detections)")


def write_detections(
  path: str, total: MeanAP, category_ids: Sequence[int], *, force: bool = False
) -> int:
  """Writes all detections as the JSON that COCO's tools read, image by image; returns how many.

  Numbers are written in full, so that COCO's tools find the same figures in the file as `compute`.
  The file is written whole or not at all.

  Raises:
    UserError: a class has no number, or the file could not be written.
  """
  records = total.joined()
  highest = int(records.found_classes.max(initial=-1))
  if highest >= len(category_ids):
    raise UserError(
      f"class {highest} was detected, but only {len(category_ids)} category ids are known: give "
      "one for each class"
    )
  with atomic_write(path, force=force) as file:
    separator = b"["
    for entry in _entries(records, category_ids):
      file.write(separator + json.dumps(entry, separators=(",", ":")).encode())
      separator = b",\n"
    file.write(b"]\n" if separator != b"[" else b"[]\n")
  return len(records.found_images)


def _entries(records: Records, category_ids) -> Iterator[dict]:
  boxes = records.found_boxes.astype(np.float64)
  for index in np.argsort(records.found_images, kind="stable"):
    x1, y1, x2, y2 = boxes[index].tolist()
    yield {
      "image_id": int(records.found_images[index]),
      "category_id": int(category_ids[records.found_classes[index]]),
      "bbox": [x1, y1, x2 - x1, y2 - y1],
      "score": float(records.found_scores[index]),
    }


@dataclasses.dataclass(frozen=True)
class Curve:
  """Precision against recall at one IoU threshold, all areas, 100 detections an image."""

  recall: np.ndarray  # the same 101 recalls for all, from 0 to 1
  precision: np.ndarray  # the best precision at that recall or a higher one, [K, 101]
  score: np.ndarray  # the score from which detections were counted to get there, [K, 101]
  classes: np.ndarray  # classes of the rows, those that have boxes, [K]

  @property
  def mean(self) -> np.ndarray:
    """Mean precision over the classes, [101]; its mean is the AP at this threshold."""
    return self.precision.mean(axis=0) if len(self.classes) else np.zeros(len(self.recall))


def precision_recall(result: Result, iou: float = 0.5) -> Curve:
  """The curve at one of COCO's thresholds, 0.5 to 0.95 by 0.05; any other takes the nearest."""
  threshold = int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))
  precision = result.precision[threshold, :, :, _ALL_AREAS, _HUNDRED].T
  score = result.scores[threshold, :, :, _ALL_AREAS, _HUNDRED].T
  classes = np.flatnonzero(result.boxes > 0)
  return Curve(RECALLS, precision[classes], score[classes], classes)


def draw_precision_recall(
  axes, result: Result, class_names: Sequence[str], *, iou: float = 0.5, legend: int = 10
) -> None:
  """Draws the curves on axes of matplotlib: a thin line for each class, a thick one for the mean.

  With more classes than `legend`, only the mean is named.
  """
  curve = precision_recall(result, iou)
  named = len(curve.classes) <= legend
  for index, precision in zip(curve.classes, curve.precision, strict=True):
    label = f"{class_names[index]} {100 * precision.mean():.1f}" if named else None
    axes.plot(curve.recall, precision, linewidth=0.8, alpha=0.7, label=label)
  axes.plot(curve.recall, curve.mean, "k", label=f"mean {100 * curve.mean.mean():.1f}")
  axes.set(xlabel="recall", ylabel=f"precision at IoU {iou:g}", xlim=(0, 1), ylim=(0, 1.02))
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)


def _write_precision_recall(path, total: MeanAP, dataset, *, force: bool) -> None:
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  figure = Figure(figsize=(6.4, 4.8), layout="constrained")
  draw_precision_recall(figure.subplots(), total.compute(), dataset.class_names)
  save_figure(path, figure, force=force)


def _write_pictures(path, total: MeanAP, dataset, *, force: bool) -> None:
  """The first images of the split with the boxes that were found on them."""
  records = total.joined()
  pictures = []
  for index in range(min(PICTURES, dataset.num_eval)):
    record = dataset.eval[index]
    mine = (records.found_images == record["image_id"]) & (records.found_scores >= LEAST_SCORE)
    classes, scores = records.found_classes[mine], records.found_scores[mine]
    try:
      image = dataset.decode(record["image"])
    except ImageError:
      continue  # the evaluation has named it
    height, width = image.shape[:2]
    place = letterbox_geometry(height, width, (PICTURE_SIDE, PICTURE_SIDE))
    scale = np.tile([place.width / width, place.height / height], 2)
    picture = Picture(
      letterbox(image, place),
      boxes=records.found_boxes[mine] * scale + np.tile([place.left, place.top], 2),
      classes=classes.tolist(),
      names=[f"{dataset.class_names[c]} {s:.2f}" for c, s in zip(classes, scores, strict=True)],
    )
    pictures.append(picture)
  write_output(path, encode_png(draw_grid(pictures)), force=force)
  print(f"written: {path} ({len(pictures)} images, boxes of scores from {LEAST_SCORE})")


FILES = {
  "detections": _write_detections,
  "precision_recall": _write_precision_recall,
  "pictures": _write_pictures,
}
"""By the name of the option of `train.evaluate`: (path, total, dataset, force) -> nothing."""
