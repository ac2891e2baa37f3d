"""A data set in YOLO's form: data.yaml, images, and a text file of labels beside each.

A line of a label file is a class and a box (centre x, centre y, width, height), or a class and an
outline (x1, y1, x2, y2, ...), all as shares of the image's sides.
"""

import os
import pathlib
from typing import Any

import numpy as np
import yaml

from pst_jax.errors import UserError
from train.data.prepare import KEYS
from train.data.prepare.boxes import BoxImages, BoxListing, check_class_names
from train.data.prepare.folders import ENDINGS, utf8
from train.data.prepare.image_sources import FolderSource, read_file
from train.data.prepare.labelled import Faults, LabelledImage, Object, add_object

# A box may stick out by so much: what six digits and rounding leave.
TOLERANCE = (2e-3, 2e-3)
# Numbers above this are no shares that a box sticking out would have.
LARGEST_SHARE = 2.0


def list_yolo(path: pathlib.Path, *, skip: bool) -> BoxListing:
  """Lists images and boxes of a data.yaml, checked.

  Args:
    skip: leave out what is wrong and print it, instead of an error.

  Raises:
    UserError: a file cannot be read, boxes are in pixels, there are key points, or with `skip`
      false anything is wrong.
  """
  described = _read_yaml(path)
  names = _class_names(described.get("names"), path)
  if described.get("nc", len(names)) != len(names):
    raise UserError(f"{path} has nc {described['nc']}, but {len(names)} names: mend it")
  if "kpt_shape" in described:
    # Key points of two numbers each cannot be told from outlines.
    raise UserError(f"{path} has kpt_shape, but key points are not read: give boxes alone")
  if not described.get("train") or not (described.get("val") or described.get("test")):
    raise UserError(f"{path} has no `train` and `val`: name the folders of both splits' images")
  root = path.parent / str(described.get("path") or "")
  if not root.is_dir():
    root = path.parent  # many data.yaml name the folder of the machine that made them
  faults, splits = Faults(path, skip=skip), {}
  for key, faults.split in KEYS.items():
    if described.get(key):
      images = _image_paths(root, described[key], f"`{key}` of {path}")
      splits[faults.split] = _list_split(images, len(names), f"{path}, {key}", faults)
  faults.settle()
  return BoxListing(splits, names, list(range(len(names))))


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
  try:
    described = yaml.safe_load(read_file(path, "check --data").decode())
  except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{path} is no YAML ({reason}): mend it") from error
  if not isinstance(described, dict):
    raise UserError(f"{path} has no keys, but `train`, `val` and `names` are needed: mend it")
  return described


def _class_names(names: Any, path: pathlib.Path) -> list[str]:
  if isinstance(names, dict):
    if sorted(names, key=str) != sorted(range(len(names)), key=str):
      raise UserError(f"{path} numbers its `names` otherwise than 0, 1, 2, ...: mend it")
    names = [names[index] for index in range(len(names))]
  if not isinstance(names, list):
    raise UserError(f"{path} has no list `names`: add the names of the classes")
  return check_class_names(names, path)


def _image_paths(root: pathlib.Path, given: Any, what: str) -> list[pathlib.Path]:
  found = []
  for each in given if isinstance(given, list) else [given]:
    place = root / str(each)
    if not place.exists() and str(each).startswith("../"):
      place = root / str(each)[3:]  # as Roboflow writes it, one folder too high
    if place.is_dir():
      inside = (pathlib.Path(where, file) for where, _, files in os.walk(place) for file in files)
      found += [path for path in inside if path.suffix.lower() in ENDINGS and path.name[0] != "."]
    elif place.suffix == ".txt" and place.is_file():
      lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
      found += [place.parent / line.strip() for line in lines if line.strip()]
    else:
      raise UserError(f"{what} is {each}, but {place} is no folder and no list: check the path")
  if not found:
    raise UserError(f"{what} is {given}, where no images are: check the path")
  return sorted(pathlib.Path(os.path.abspath(path)) for path in found)


def _label_path(image: pathlib.Path) -> pathlib.Path:
  parts = list(image.parts)
  for index in range(len(parts) - 2, -1, -1):
    if parts[index] == "images":
      parts[index] = "labels"
      break
  return pathlib.Path(*parts).with_suffix(".txt")


def _list_split(
  paths: list[pathlib.Path], num_classes: int, source: str, faults: Faults
) -> BoxImages:
  images, known, without = [], set(), 0
  common = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
  files, units = FolderSource(common), [0, 0, ""]
  for path in paths:
    name = utf8(path.relative_to(common).as_posix())
    num_bytes = files.num_bytes(name)
    if name in known:
      faults.add("duplicate images", str(path))
    elif not num_bytes:
      faults.add("missing images", str(path))
    else:
      known.add(name)
      image = LabelledImage(name, len(images), num_bytes, size=None)
      without += not _add_labels(image, _label_path(path), num_classes, faults, units)
      images.append(image)
  if units[0] > units[1] / 2:
    raise UserError(
      f"{source}: labels such as {units[2]} look like pixels, but YOLO's form has shares of the"
      " image's sides: divide them by its width and height"
    )
  if images and without == len(images):
    raise UserError(
      f"{source}: no image has a file of labels, such as {_label_path(paths[0])}: put them there"
    )
  if not images:
    faults.settle()
    raise UserError(f"{source}: no image is there: check the paths")
  if without:
    print(f"{source}: {without:,} images without a file of labels, as background")
  return BoxImages(images, files.read)


def _add_labels(image, path: pathlib.Path, num_classes: int, faults: Faults, units: list) -> bool:
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows begins files with a mark
  except FileNotFoundError:
    return False
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read ({error}): repair or remove it") from error
  for number, line in enumerate(lines, 1):
    if line.strip():
      where = f"line {number} of {path} ({line.strip()[:60]})"
      label, box, polygons = _parse(line, where)
      units[1] += 1
      if np.abs(box).max() > LARGEST_SHARE:
        units[0] += 1
        units[2] = units[2] or where
      if not 0 <= label < num_classes:
        faults.add("boxes of an unknown class", where)
      else:
        found = Object(tuple(box), label, number, polygons=polygons)
        add_object(image, found, faults, TOLERANCE, where)
  return True


def _parse(line: str, where: str) -> tuple[int, np.ndarray, list[np.ndarray]]:
  try:
    numbers = [float(each) for each in line.split()]
    label = int(numbers[0])
    values = np.array(numbers[1:])
    if label != numbers[0] or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
      raise ValueError
  except (ValueError, OverflowError):
    raise UserError(
      f"{where} is no class with a box (4 numbers) or an outline (6 or more, even): mend it"
    ) from None
  if len(values) == 4:
    centre, half = values[:2], values[2:] / 2
    with np.errstate(invalid="ignore"):  # infinite numbers are a fault that is counted
      return label, np.concatenate([centre - half, centre + half]), []
  points = values.reshape(-1, 2)
  box = np.concatenate([points.min(axis=0), points.max(axis=0)])
  return label, box, [np.clip(np.nan_to_num(points), 0, 1)]
