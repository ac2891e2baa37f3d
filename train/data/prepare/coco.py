"""Annotations in COCO's JSON form, with images in a folder or a zip.

The form: https://cocodataset.org/#format-data (object detection).
"""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pst_jax.errors import UserError
from train.data.prepare.boxes import BoxImages, BoxListing, check_class_names
from train.data.prepare.image_sources import FolderSource, ZipSource, read_file
from train.data.prepare.labelled import Faults, LabelledImage, Object, add_object, pixel_tolerance


@dataclass(frozen=True)
class CocoSplit:
  """A split before its annotations are checked.

  Attributes:
    annotations: path of the JSON, for messages.
    content: what was parsed of it.
    images: where the images lie.
  """

  annotations: str
  content: dict[str, Any]
  images: FolderSource | ZipSource


def open_custom(
  images: dict[str, pathlib.Path], annotations: dict[str, pathlib.Path]
) -> dict[str, CocoSplit]:
  """Reads annotations of one's own.

  Args:
    images: the folder of the images of each split; one alone serves all.
    annotations: the JSON of each split.

  Raises:
    UserError: a file cannot be read or is no such JSON, or a split has no images.
  """
  found = {}
  for split, path in annotations.items():
    folder = images.get(split) or (next(iter(images.values())) if len(images) == 1 else None)
    if folder is None:
      raise UserError(
        f"--annotations has the split {split}, but --images has {', '.join(images)}: give"
        f" --images {split}=FOLDER too"
      )
    if not folder.is_dir():
      raise UserError(f"--images is {folder}, but there is no such folder: check the path")
    content = read_file(path, "check --annotations")
    found[split] = CocoSplit(str(path), parse(content, str(path)), FolderSource(folder))
  return found


def parse(content: bytes, where: str) -> dict[str, Any]:
  """Annotations from JSON.

  Raises:
    UserError: it is cut short, or not in COCO's form.
  """
  try:
    parsed = json.loads(content)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where} is no whole JSON ({error}): download or export it again") from error
  lists = ("images", "annotations", "categories")
  for name in lists:
    rows = parsed.get(name) if isinstance(parsed, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
      raise UserError(
        f"{where} has no list `{name}`, but COCO's form has {', '.join(lists)}: export it as COCO"
        " object detection"
      )
  return parsed


def list_coco(splits: dict[str, CocoSplit], *, skip: bool) -> BoxListing:
  """Lists images and boxes of all splits, checked.

  Args:
    skip: leave out what is wrong and print it, instead of an error.

  Raises:
    UserError: a row lacks what is needed, the splits' categories differ, boxes are in the wrong
      units, or with `skip` false anything is wrong.
  """
  first = next(iter(splits.values()))
  categories = _categories(first)
  for split in splits.values():
    if _categories(split) != categories:
      raise UserError(
        f"{split.annotations} has other categories than {first.annotations}: export both with the"
        " same classes and ids"
      )
  ids = [identity for identity, _ in categories]
  sources = " and ".join(split.annotations for split in splits.values())
  faults, listed = Faults(sources, skip=skip), {}
  for faults.split, split in splits.items():
    listed[faults.split] = _list_split(split, ids, faults)
  faults.settle()
  return BoxListing(listed, [name for _, name in categories], ids)


def _categories(split: CocoSplit) -> list[tuple[int, str]]:
  rows = split.content["categories"]
  found = sorted((_whole(row, "id", split, "a category"), str(row.get("name"))) for row in rows)
  names = check_class_names([name for _, name in found], split.annotations)
  ids = [identity for identity, _ in found]
  if len(set(ids)) < len(ids):
    raise UserError(f"{split.annotations} has two categories of one id: number them anew")
  return list(zip(ids, names, strict=True))


def _list_split(split: CocoSplit, ids: Sequence[int], faults: Faults) -> BoxImages:
  images, known = _list_images(split, faults)
  labels = {identity: label for label, identity in enumerate(ids)}
  boxes = [_box(row, split) for row in split.content["annotations"]]
  _check_units(split, boxes, images)
  for row, box in zip(split.content["annotations"], boxes, strict=True):
    image_id, category = (_as_whole(row.get(key)) for key in ("image_id", "category_id"))
    image = images.get(image_id)
    where = f"annotation {row.get('id')} of image {image.name if image else row.get('image_id')}"
    if image is None:
      if image_id not in known:
        faults.add("boxes of no image", where)
    elif category not in labels:
      faults.add("boxes of an unknown class", f"{where} (category {row.get('category_id')})")
    else:
      label = labels[category]
      add_object(image, _object(row, box, label, image, split), faults,
                 pixel_tolerance(image.size), f"{where} (x, y, width, height {box})")  # fmt: skip
  return BoxImages(list(images.values()), split.images.read)


def _list_images(split: CocoSplit, faults: Faults) -> tuple[dict[int, LabelledImage], set[int]]:
  images, names, known = {}, set(), set()
  for row in split.content["images"]:
    identity = _whole(row, "id", split, "an image")
    name = row.get("file_name")
    if not isinstance(name, str) or not _is_inside(name):
      raise UserError(
        f"{split.annotations} has the image {identity} with the file_name {name!r:.60}, which is no"
        " path inside the images' folder: mend it"
      )
    size = _whole(row, "height", split, name), _whole(row, "width", split, name)
    if min(size) < 1:
      raise UserError(f"{split.annotations} says that {name} has the size {size}: mend it")
    num_bytes = split.images.num_bytes(name)
    if identity in images and images[identity].name != name:
      raise UserError(
        f"{split.annotations} has two images of the id {identity}, {images[identity].name} and"
        f" {name}, so that nobody can tell whose its boxes are: number them anew"
      )
    if identity in images or name in names:
      faults.add("duplicate images", f"{name} (id {identity})")
    elif not num_bytes:
      faults.add("missing images", f"{name}, which is not in {split.images}")
    else:
      images[identity] = LabelledImage(name, identity, num_bytes, size)
      names.add(name)
    known.add(identity)
  if not images:
    faults.settle()
    raise UserError(f"{split.annotations} has no image that is in {split.images}: check both")
  return images, known


def _is_inside(name: str) -> bool:
  path = pathlib.PurePosixPath(name)
  if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
    return False
  return not any(0xD800 <= ord(letter) < 0xE000 for letter in name)


def _object(row, box, label, image, split) -> Object:
  height, width = image.size
  x, y, box_width, box_height = box
  area = row.get("area")
  outline = row.get("segmentation")
  return Object(
    (x / width, y / height, (x + box_width) / width, (y + box_height) / height),
    label,
    _as_whole(row.get("id")) or 0,
    row.get("iscrowd") not in (None, 0, "0"),
    float(area) if isinstance(area, int | float) and 0 < area < 1e30 else None,
    _polygons(row, outline, width, height, split) if isinstance(outline, list) else [],
  )


def _polygons(row, outline, width, height, split) -> list[np.ndarray]:
  try:
    with np.errstate(over="ignore"):  # infinite is refused below
      flat = [np.asarray(each, np.float32) for each in outline]
    if any(each.ndim != 1 or len(each) % 2 or not np.isfinite(each).all() for each in flat):
      raise ValueError
  except (ValueError, TypeError, OverflowError):
    raise UserError(
      f"{split.annotations} has annotation {row.get('id')} with a segmentation that is no list of"
      " polygons x1, y1, x2, y2, ...: export it again"
    ) from None
  size = np.array([width, height], np.float32)
  polygons = [np.clip(each.reshape(-1, 2) / size, 0, 1) for each in flat if len(each) >= 6]
  # Some programs write zeros for an outline that they do not have: the box is all there is then.
  return polygons if polygons and np.ptp(np.concatenate(polygons), axis=0).all() else []


def _check_units(split: CocoSplit, boxes: Sequence[list[float]], images) -> None:
  shares = [box for box in boxes if min(box) >= 0 and max(box) <= 1]
  large = any(min(image.size) > 2 for image in images.values())
  if large and len(shares) > len(boxes) / 2:
    raise UserError(
      f"{split.annotations} has boxes such as {shares[0]}, which look like shares of the image, but"
      " COCO's form has x, y, width and height in pixels: export it again"
    )


def _whole(row: dict, key: str, split: CocoSplit, what: str) -> int:
  value = _as_whole(row.get(key))
  if value is None:
    raise UserError(
      f"{split.annotations} has {what} whose {key} is {row.get(key)!r:.60}, but a whole number is"
      " needed: export it again"
    )
  return value


def _as_whole(value: Any) -> int | None:
  """The whole number of 64 bits that a value of JSON is, if it is one."""
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  return value if is_whole and abs(value) < 2**63 else None


def _box(row: dict, split: CocoSplit) -> list[float]:
  value = row.get("bbox")
  # A bool is an int, but no number of pixels.
  if not isinstance(value, list) or [type(each) in (int, float) for each in value] != [True] * 4:
    raise UserError(
      f"{split.annotations} has annotation {row.get('id')} whose bbox is {value!r:.60}, but"
      " 4 numbers are needed: export it again"
    )
  try:
    return [float(each) for each in value]
  except OverflowError:
    return [float("inf")] * 4
