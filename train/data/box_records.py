"""Images with boxes, as records of a prepared data set.

Two forms are read: the one that `python -m train.prepare coco | yolo | voc` writes, and TFDS's own
`coco/2017`. Worker processes import this module: it must not import jax.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int

from pst_jax.errors import UserError
from train.data.sources import has_images
from train.data.transforms.boxes import Polygon

# The ids of COCO's 80 categories: TFDS's own `coco/2017` does not hold them.
COCO_CATEGORY_IDS = (
  *range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83),
  *range(84, 91),
)  # fmt: skip


class BoxRecord(TypedDict):
  """An encoded image and its objects.

  Keys:
    image: bytes of an image file.
    name: says which record it is, for error messages.
    file_name: of the image, as the source had it.
    image_id: a number that no other image of the split has.
    boxes: x1, y1, x2, y2 as shares of the image's width and height.
    classes: index of each object's class.
    crowd: whether a box stands for a group of objects; such boxes are not trained on.
    area: of each object in pixels, of its outline where the source has one, else of its box.
    polygons: of each object: its outlines, x and y as shares; none where the source has none.
  """

  image: bytes
  name: str
  file_name: str
  image_id: int
  boxes: Float[np.ndarray, "objects 4"]
  classes: Int[np.ndarray, " objects"]
  crowd: Bool[np.ndarray, " objects"]
  area: Float[np.ndarray, " objects"]
  polygons: tuple[tuple[Polygon, ...], ...]


@dataclass(frozen=True)
class ReadBoxes:
  """TFDS's example -> a `BoxRecord` without its name; see `train.data.sources.TfdsRecords`."""

  num_classes: int

  def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
    objects = example["objects"]
    count = len(objects["label"])
    classes = np.asarray(objects["label"], np.int32).reshape(count)
    wrong = classes[(classes < 0) | (classes >= self.num_classes)]
    if wrong.size:
      raise UserError(
        f"has the label {wrong[0]}, but the data set declares {self.num_classes} classes"
        f" (0 to {self.num_classes - 1}): prepare it again with the right labels"
      )
    # TFDS's order is top, left, bottom, right.
    boxes = np.asarray(objects["bbox"], np.float64).reshape(count, 4)[:, [1, 0, 3, 2]]
    return {
      "image": example["image"],
      "file_name": example["image/filename"].decode(errors="replace"),
      "image_id": int(example["image/id"]),
      "boxes": boxes,
      "classes": classes,
      "crowd": np.asarray(objects["is_crowd"], np.bool_).reshape(count),
      "area": np.asarray(objects["area"], np.float64).reshape(count),
      "polygons": _to_polygons(example.get("polygons"), count),
    }


def _to_polygons(stored: dict[str, Any] | None, count: int) -> tuple[tuple[Polygon, ...], ...]:
  polygons = [[] for _ in range(count)]
  if stored:
    ends = np.cumsum(stored["length"])[:-1]
    for owner, points in zip(stored["object"], np.split(stored["points"], ends), strict=False):
      polygons[owner].append(points.astype(np.float64))
  return tuple(map(tuple, polygons))


def has_boxes(features) -> bool:
  """Whether a TFDS data set's features are images with boxes, in either of the two forms."""
  import tensorflow_datasets as tfds

  objects = dict(features).get("objects")
  inside = objects.feature if isinstance(objects, tfds.features.Sequence) else None
  inside = dict(inside) if isinstance(inside, tfds.features.FeaturesDict) else {}
  label = inside.get("label")
  return (
    has_images(features)
    and {"area", "bbox", "is_crowd"} <= inside.keys()
    and {"image/id", "image/filename"} <= dict(features).keys()
    and isinstance(label, tfds.features.ClassLabel)
    and bool(label.num_classes)
  )


class BoxClasses(NamedTuple):
  """The names of the classes (their numbers, if they have none), and their numbers in COCO's JSON.

  Both are in the order of the labels.
  """

  names: tuple[str, ...]
  category_ids: tuple[int, ...]


def box_classes(info) -> BoxClasses:
  """The classes that a TFDS `DatasetInfo` with boxes declares."""
  label = info.features["objects"].feature["label"]
  ids = (info.metadata or {}).get("category_ids")
  if ids is None:
    is_coco = label.num_classes == len(COCO_CATEGORY_IDS) and info.name == "coco"
    ids = COCO_CATEGORY_IDS if is_coco else range(label.num_classes)
  return BoxClasses(tuple(label.names), tuple(int(each) for each in ids))
