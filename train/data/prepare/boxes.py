"""Images with boxes, however they came, as one TFDS data set in array_record form."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from pst_jax.errors import ImageError, UserError
from pst_jax.preprocessing import upright_size
from train.data.prepare.folders import check_name, place_of, utf8
from train.data.prepare.labelled import LabelledImage, Object

TAKEN = ("coco", "digit_scenes")
TEST_SHARE = 10


@dataclass(frozen=True)
class BoxImages:
  """A split of labelled images; see `writing.Split`."""

  images: Sequence[LabelledImage]
  read: Callable[[str], bytes]

  @property
  def names(self) -> list[str]:
    return [image.name for image in self.images]

  @property
  def sizes(self) -> Int[np.ndarray, " images"]:
    return np.array([image.num_bytes for image in self.images], np.int64)

  def example(self, index: int) -> dict[str, Any]:
    image = self.images[index]
    encoded = self.read(image.name)
    height, width = size_of(encoded, image.name)
    if image.size and image.size != (height, width):
      raise UserError(
        f"{image.name} has {height} x {width} pixels, but its boxes were drawn on"
        f" {image.size[0]} x {image.size[1]} (height x width): give the images that were labelled"
      )
    return box_example(image, encoded, height, width)


@dataclass(frozen=True)
class BoxListing:
  """All that is known of a data set before it is written.

  Attributes:
    splits: by TFDS's name of the split.
    class_names: in the order of the labels.
    category_ids: the number of each class in COCO's JSON form.
  """

  splits: dict[str, BoxImages]
  class_names: list[str]
  category_ids: list[int]


def split_off_test(whole: BoxImages) -> dict[str, BoxImages]:
  """Every tenth image, in the order of the MD5 of its name, makes the split `test`.

  Raises:
    UserError: there are less than ten.
  """
  if len(whole.images) < TEST_SHARE:
    raise UserError(
      f"there are {len(whole.images)} images, of which every {TEST_SHARE}th would be for testing:"
      " give annotations of both splits, as --annotations train=FILE test=FILE"
    )
  ordered = sorted(whole.images, key=lambda image: place_of(image.name))
  test = {image.name for image in ordered[TEST_SHARE - 1 :: TEST_SHARE]}
  return {
    "train": BoxImages([each for each in whole.images if each.name not in test], whole.read),
    "test": BoxImages([each for each in whole.images if each.name in test], whole.read),
  }


def size_of(encoded: bytes, name: str) -> tuple[int, int]:
  """Height and width of an image; raises UserError where it is none."""
  try:
    return upright_size(encoded)
  except ImageError as error:
    raise UserError(f"{name} is no image ({error}): repair or remove it") from error


def box_example(image: LabelledImage, encoded: bytes, height: int, width: int) -> dict[str, Any]:
  """An image and its objects as TFDS writes them, with the features of `box_info`."""
  return {
    "image": encoded,
    "image/filename": image.name,
    "image/id": image.image_id,
    "image/height": height,
    "image/width": width,
    "objects": [_features_of(each, height, width) for each in image.objects],
    "polygons": _flat_polygons(image.objects),
  }


def _features_of(found: Object, height: int, width: int) -> dict[str, Any]:
  x1, y1, x2, y2 = found.box
  area = found.area
  if area is None:
    area = (sum(map(_share, found.polygons)) or (x2 - x1) * (y2 - y1)) * width * height
  return {
    "area": area,
    "bbox": tfds.features.BBox(ymin=y1, xmin=x1, ymax=y2, xmax=x2),
    "id": found.identity,
    "is_crowd": found.crowd,
    "label": found.label,
  }


def _share(outline: np.ndarray) -> float:
  """The share of the image's area in an outline, by the shoelace formula."""
  x, y = outline.astype(np.float64).T
  return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _flat_polygons(objects: Sequence[Object]) -> dict[str, np.ndarray]:
  owners = [index for index, each in enumerate(objects) for _ in each.polygons]
  polygons = [points for each in objects for points in each.polygons]
  return {
    "object": np.array(owners, np.int32),
    "length": np.array([len(points) for points in polygons], np.int32),
    "points": np.concatenate([np.zeros((0, 2)), *polygons]).astype(np.float32),
  }


def box_info(
  builder, description: str, names: Sequence[str], category_ids: Sequence[int]
) -> tfds.core.DatasetInfo:
  """TFDS's description of a data set with boxes: the features of its `coco`, and more.

  Areas are float, and outlines stand one after the other: `length` points each, of the object with
  the index `object`. TFDS could nest them, but reads nested lists slowly.
  """
  features = {
    "image": tfds.features.Image(),
    "image/filename": tfds.features.Text(),
    "image/id": np.int64,
    "image/height": np.int32,
    "image/width": np.int32,
    "objects": tfds.features.Sequence(
      {
        "area": np.float32,
        "bbox": tfds.features.BBoxFeature(),
        "id": np.int64,
        "is_crowd": np.bool_,
        "label": tfds.features.ClassLabel(names=list(names)),
      }
    ),
    "polygons": {
      "object": tfds.features.Tensor(shape=(None,), dtype=np.int32),
      "length": tfds.features.Tensor(shape=(None,), dtype=np.int32),
      "points": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
    },
  }
  return tfds.core.DatasetInfo(
    builder=builder,
    description=description,
    features=tfds.features.FeaturesDict(features),
    metadata=tfds.core.MetadataDict({"category_ids": list(category_ids)}),
  )


def check_box_name(dataset: str) -> None:
  """Raises UserError for a name that TFDS cannot use, or that another data set has."""
  check_name(dataset)
  if dataset in TAKEN:
    raise UserError(f"--name is {dataset}, but another data set is called so: give another name")


def check_class_names(names: Sequence[Any], source: object) -> list[str]:
  """Class names as TFDS can keep them, a line each.

  Raises:
    UserError: there are none, or two are the same.
  """
  clean = [utf8(" ".join(str(name).split())) for name in names]
  if not clean or not all(clean):
    raise UserError(f"{source} names no classes, or one without a name: add their names")
  twice = next((name for name, count in Counter(clean).items() if count > 1), None)
  if twice:
    raise UserError(f"{source} has two classes called {twice}: rename one of them")
  return clean
