"""COCO's mean average precision and recall of boxes, gathered batch by batch.

The figures are those of pycocotools' COCOeval for boxes, to the last digit; hotcoco matches the
boxes. What is gathered is plain arrays on the host.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from pst_jax.errors import UserError

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # areas, as COCO orders them
_ONE, _TEN, _HUNDRED = range(3)  # detections per image and class
_EVERY_IOU = slice(None)

# What COCO's twelve figures are the means of: array, IoU thresholds, area, detections.
FIGURES = {
  "map": ("precision", _EVERY_IOU, _ALL, _HUNDRED),
  "ap50": ("precision", slice(0, 1), _ALL, _HUNDRED),
  "ap75": ("precision", slice(5, 6), _ALL, _HUNDRED),
  "ap_small": ("precision", _EVERY_IOU, _SMALL, _HUNDRED),
  "ap_medium": ("precision", _EVERY_IOU, _MEDIUM, _HUNDRED),
  "ap_large": ("precision", _EVERY_IOU, _LARGE, _HUNDRED),
  "ar1": ("recall", _EVERY_IOU, _ALL, _ONE),
  "ar10": ("recall", _EVERY_IOU, _ALL, _TEN),
  "ar100": ("recall", _EVERY_IOU, _ALL, _HUNDRED),
  "ar_small": ("recall", _EVERY_IOU, _SMALL, _HUNDRED),
  "ar_medium": ("recall", _EVERY_IOU, _MEDIUM, _HUNDRED),
  "ar_large": ("recall", _EVERY_IOU, _LARGE, _HUNDRED),
}


class Truth(NamedTuple):
  """Boxes that people drew on the images of a batch, in pixels of the original images."""

  boxes: np.ndarray  # x1, y1, x2, y2, [B, n, 4]
  classes: np.ndarray  # class indices, [B, n]
  valid: np.ndarray  # rows that hold a box, [B, n]
  crowds: np.ndarray | None = None  # True for a box around many objects, [B, n]; None: no box is
  # Pixels of the objects themselves, which decide small, medium and large, [B, n]; None: the areas
  # of the boxes.
  areas: np.ndarray | None = None


class Found(NamedTuple):
  """Detections on the images of a batch, in pixels of the original images."""

  boxes: np.ndarray  # x1, y1, x2, y2, [B, n, 4]
  scores: np.ndarray  # from 0 to 1, [B, n]
  classes: np.ndarray  # class indices, [B, n]
  valid: np.ndarray  # rows that hold a detection, [B, n]


class Records(NamedTuple):
  """Images, their boxes and what was found on them: one row each."""

  images: np.ndarray
  truth_images: np.ndarray
  truth_boxes: np.ndarray
  truth_classes: np.ndarray
  truth_crowds: np.ndarray
  truth_areas: np.ndarray
  found_images: np.ndarray
  found_boxes: np.ndarray
  found_scores: np.ndarray
  found_classes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
  """What an evaluation found; a figure is -1 where no box could have been found."""

  figures: dict[str, float]  # COCO's twelve by the names of `FIGURES`
  precision: np.ndarray  # by IoU threshold, recall, class, area, detections, [10, 101, K, 4, 3]
  recall: np.ndarray  # by IoU threshold, class, area, detections, [10, K, 4, 3]
  scores: np.ndarray  # the score at which each precision is reached, shaped as `precision`
  boxes: np.ndarray  # boxes of each class, crowds left out, [K]
  images: np.ndarray  # images with such a box of the class, [K]


@dataclasses.dataclass(frozen=True)
class MeanAP:
  """The metric, and what it has seen so far: `update` with every batch, `compute` once."""

  num_classes: int
  # Joined once, at the end: joining at every batch would copy everything each time.
  batches: tuple[Records, ...] = ()

  def update(
    self, image_ids: np.ndarray, truth: Truth, found: Found, mask: np.ndarray | None = None
  ) -> "MeanAP":
    """With the images of one batch, those without any box too.

    Args:
      image_ids: a whole number for each image, [B]. Equal scores rank by it, as in COCO.
      truth: boxes of the images; in float64 they are kept exactly.
      found: detections on the images.
      mask: False for images that only fill the batch, [B]; None: all are real.

    Raises:
      UserError: a box or class that cannot be.
    """
    images = np.asarray(image_ids).astype(np.int64)
    real = np.ones(len(images), bool) if mask is None else np.asarray(mask, bool)
    drawn = real[:, None] & np.asarray(truth.valid, bool)
    found_rows = real[:, None] & np.asarray(found.valid, bool)
    boxes = np.asarray(truth.boxes)[drawn].astype(np.float64)
    records = Records(
      images=images[real],
      truth_images=images[np.nonzero(drawn)[0]],
      truth_boxes=boxes,
      truth_classes=np.asarray(truth.classes)[drawn].astype(np.int64),
      truth_crowds=_rows(truth.crowds, drawn, bool, np.zeros(len(boxes), bool)),
      truth_areas=_rows(truth.areas, drawn, np.float64, _areas(boxes)),
      found_images=images[np.nonzero(found_rows)[0]],
      found_boxes=_at_least_float32(found.boxes)[found_rows],
      found_scores=_at_least_float32(found.scores)[found_rows],
      found_classes=np.asarray(found.classes)[found_rows].astype(np.int64),
    )
    self._check(records)
    return dataclasses.replace(self, batches=(*self.batches, records))

  def _check(self, records: Records) -> None:
    for name in ("truth", "found"):
      classes = getattr(records, f"{name}_classes")
      wrong = classes[(classes < 0) | (classes >= self.num_classes)]
      if wrong.size:
        raise UserError(
          f"the evaluation met class {wrong[0]}, but the network has {self.num_classes} classes, "
          "counted from 0: check the classes of the data"
        )
    for name in ("truth_boxes", "truth_areas", "found_boxes", "found_scores"):
      if not np.isfinite(getattr(records, name)).all():
        kind = "detections" if name.startswith("found") else "boxes of the data"
        raise UserError(
          f"the {kind} hold values that are not finite ({name}): evaluate weights that are sound, "
          "or prepare the data again"
        )

  def compute(self) -> Result:
    """All figures over the images.

    Raises:
      UserError: no image was seen, or one was seen twice.
    """
    records = self.joined()
    _check_images(records.images)
    return _evaluate(records, self.num_classes)

  def joined(self) -> Records:
    """All batches as one set of records."""
    if not self.batches:
      empty, boxes, classes = np.zeros(0), np.zeros((0, 4)), np.zeros(0, np.int64)
      truth = (classes, boxes, classes, np.zeros(0, bool), empty)
      return Records(classes, *truth, classes, boxes, empty, classes)
    return Records(*map(np.concatenate, zip(*self.batches, strict=True)))


def _rows(values, kept, dtype, default):
  return default if values is None else np.asarray(values)[kept].astype(dtype)


def _areas(boxes):
  return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _at_least_float32(values):
  return np.asarray(values).astype(np.result_type(np.asarray(values).dtype, np.float32))


def _check_images(images):
  if not images.size:
    raise UserError("there is no image to evaluate on: check the evaluation split of the data")
  values, counts = np.unique(images, return_counts=True)
  if (counts > 1).any():
    raise UserError(
      f"image id {values[counts > 1][0]} was evaluated {counts.max()} times, but each image "
      "counts once: check that the ids of the evaluation split are unique"
    )


def _evaluate(records: Records, num_classes: int) -> Result:
  import hotcoco  # here, so that training of classifiers does not need it

  ids = np.sort(records.images)
  images = [{"id": i, "width": 0, "height": 0} for i in range(1, len(ids) + 1)]
  categories = [{"id": i, "name": str(i)} for i in range(1, num_classes + 1)]
  truth = hotcoco.COCO.from_arrays(
    images,
    categories,
    np.searchsorted(ids, records.truth_images) + 1,
    records.truth_classes + 1,
    _corner_and_size(records.truth_boxes),
    # COCO's matching takes an annotation with id 0 for none.
    ids=np.arange(1, len(records.truth_images) + 1),
    area=records.truth_areas,
    iscrowd=records.truth_crowds.astype(np.int64),
  )
  found = truth.load_res(
    np.column_stack(
      [
        np.searchsorted(ids, records.found_images) + 1,
        _corner_and_size(records.found_boxes),
        records.found_scores,
        records.found_classes + 1,
      ]
    ).astype(np.float64)
  )
  matching = hotcoco.COCOeval(truth, found, "bbox")
  matching.evaluate()
  matching.accumulate()
  arrays = {name: np.array(matching.eval[name]) for name in ("precision", "recall", "scores")}
  own = ~records.truth_crowds
  pairs = np.unique(np.stack([records.truth_classes[own], records.truth_images[own]]), axis=1)
  return Result(
    figures={name: mean_of(arrays, name) for name in FIGURES},
    boxes=np.bincount(records.truth_classes[own], minlength=num_classes),
    images=np.bincount(pairs[0], minlength=num_classes),
    **arrays,
  )


def mean_of(arrays: dict[str, np.ndarray], name: str, classes: slice = slice(None)) -> float:
  """One of COCO's figures, of all classes or of some; -1 where no box could have been found."""
  kind, thresholds, area, detections = FIGURES[name]
  values = arrays[kind][thresholds][..., classes, area, detections]
  # Selected before the mean as pycocotools does: the order of a sum decides its last digit.
  values = values[values > -1]
  return float(np.mean(values)) if values.size else -1.0


def _corner_and_size(boxes):
  boxes = boxes.astype(np.float64)
  return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
