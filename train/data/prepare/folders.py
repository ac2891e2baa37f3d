"""A folder of class folders as a TFDS data set."""

import hashlib
import os
import pathlib
import re
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from pst_jax.errors import ImageError, UserError
from pst_jax.preprocessing import check_pixels
from train.data.prepare import SPLITS
from train.data.prepare.image_sources import read_file

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
TEST_SHARE = 10
DATASET_NAME = re.compile(r"[a-z][a-z0-9_]*")
TAKEN = ("digits", "synthetic", "imagenet2012", "fashion_mnist")


@dataclass(frozen=True)
class FolderImages:
  """A split whose images are files; see `writing.Split`.

  Attributes:
    root: the folder that `names` are relative to, such as `cat/1.jpg`.
    labels: the class of each image.
  """

  root: pathlib.Path
  names: Sequence[str]
  labels: Sequence[str]
  sizes: Int[np.ndarray, " images"]

  def example(self, index: int) -> dict[str, Any]:
    path = self.root / self.names[index]
    image = read_file(path)
    try:
      check_pixels(image)
    except ImageError as error:
      raise UserError(f"{path} has {error}, or remove it") from error
    return {"file_name": self.names[index], "image": image, "label": self.labels[index]}


@dataclass(frozen=True)
class Listing:
  """What `list_folder` found.

  Attributes:
    splits: by TFDS's name of the split.
    classes: names in the order of the labels.
    ignored: files that are no images by their ending, hidden, or in no class folder.
    numeric: all classes are named by numbers, whose order is that of the labels.
  """

  splits: dict[str, FolderImages]
  classes: list[str]
  ignored: list[pathlib.Path]
  numeric: bool


def list_folder(source: pathlib.Path) -> Listing:
  """Lists `source/class/image`, or `source/split/class/image` with the splits of `SPLITS`.

  Names of splits may be capitalised. A folder `train` without another split beside it is a class.

  Classes are numbered in the order of their names, or of the numbers that all of them are named
  by. Without given splits every tenth image of each
  class, in the order of the MD5 of its path below `source`, makes the split `test`.

  Raises:
    UserError: there are no two class folders, one is empty or has a name that TFDS would change,
      two have names that look the same, other folders lie beside the splits, a split has a class
      that training has not, or an image is no regular file.
  """
  folders = _subfolders(source)
  named = {folder.name.lower() for folder in folders}
  # A train is a vehicle, too: beside buses it is a class.
  if "train" in named and (len(named) == 1 or len(named & SPLITS.keys()) > 1):
    splits, ignored = _list_given_splits(source, folders)
  else:
    whole, ignored = _list_classes(source, folders)
    splits = _split_off_test(whole)
  _check_unlike({label for split in splits.values() for label in split.labels})
  classes = sorted(set(splits["train"].labels))
  numeric = all(name.isascii() and name.isdecimal() for name in classes)
  if numeric:
    classes.sort(key=int)
  if len(classes) == 1:
    raise UserError(
      f"{source} has one class folder alone, {classes[0]}: give a folder that has 2 or more"
    )
  for name, split in splits.items():
    strange = sorted(set(split.labels) - set(classes))
    if strange:
      raise UserError(
        f"the split {name} of {source} has the class {strange[0]}, which train has not: add"
        " training images of it, or remove it"
      )
  return Listing(splits, classes, ignored, numeric)


def _check_unlike(classes: Iterable[str]) -> None:
  """Refuses names that differ in how letters with accents are composed alone (Unicode's NFC)."""
  known = {}
  for name in classes:
    other = known.setdefault(unicodedata.normalize("NFC", name), name)
    if other != name:
      raise UserError(
        f"the class {name} is there twice, as {name!a} and as {other!a}, which look the"
        " same (two Unicode forms): put the images of both into one folder"
      )


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    inside = sorted(folder.iterdir())
  except OSError as error:
    raise UserError(
      f"{folder} cannot be listed ({error.strerror}): give a folder of class folders"
    ) from error
  found = [path for path in inside if path.is_dir() and not path.name.startswith(".")]
  if not found:
    raise UserError(
      f"{folder} has no folders: put the images of each class into a folder with its name"
    )
  return found


def _list_given_splits(source, folders):
  other = next((folder.name for folder in folders if folder.name.lower() not in SPLITS), None)
  if other:
    raise UserError(f"{source} has splits and beside them the folder {other}: move it elsewhere")
  given = {SPLITS[folder.name.lower()]: folder for folder in folders}
  if len(given) == 1:
    raise UserError(
      f"{source} has the split train alone: add {source / 'test'}, or give --source"
      f" {given['train']} to have every tenth image split off"
    )
  if len(given) < len(folders):
    raise UserError(
      f"{source} has one split twice ({', '.join(folder.name for folder in folders)}): keep one of"
      " val, valid and validation"
    )
  splits, ignored = {}, []
  for name, folder in given.items():
    splits[name], more = _list_classes(folder, _subfolders(folder))
    ignored += more
  return splits, ignored


def _list_classes(root, folders):
  names, labels, sizes = [], [], []
  ignored = sorted(path for path in root.iterdir() if not path.is_dir())
  for folder in folders:
    _check_class(folder)
    before = len(names)
    for where, inner, files in os.walk(folder):
      inner[:] = sorted(name for name in inner if not name.startswith("."))
      for file in sorted(files):
        path = pathlib.Path(where, file)
        if path.suffix.lower() not in ENDINGS or file.startswith("."):
          ignored.append(path)
          continue
        names.append(utf8(path.relative_to(root).as_posix()))
        labels.append(folder.name)
        sizes.append(_size(path))
    if len(names) == before:
      raise UserError(
        f"{folder} holds no image ({', '.join(sorted(ENDINGS))}): add some, or remove it"
      )
  return FolderImages(root, names, labels, np.array(sizes)), ignored


def _check_class(folder: pathlib.Path) -> None:
  # TFDS writes the names of the classes a line each, and strips the lines that it reads.
  if folder.name != folder.name.strip() or len(folder.name.splitlines()) != 1:
    raise UserError(
      f"{str(folder)!r} is no name of a class, because it begins or ends with a blank or has"
      " several lines: rename it"
    )


def _size(path: pathlib.Path) -> int:
  try:
    status = path.stat()
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): repair or remove it") from error
  # A FIFO is waited for without end, and a device may be read without end.
  if not stat.S_ISREG(status.st_mode):
    raise UserError(f"{path} is no regular file, as an image must be: remove it")
  return status.st_size


def utf8(name: str) -> str:
  try:
    name.encode()
  except UnicodeEncodeError:
    raise UserError(f"the name {name!r} is not UTF-8, as TFDS needs it: rename it") from None
  return name


def _split_off_test(whole: FolderImages) -> dict[str, FolderImages]:
  by_class = {}
  for index in sorted(range(len(whole.names)), key=lambda i: place_of(whole.names[i])):
    by_class.setdefault(whole.labels[index], []).append(index)
  test = {index for indices in by_class.values() for index in indices[TEST_SHARE - 1 :: TEST_SHARE]}
  if not test:
    raise UserError(
      f"no class in {whole.root} has {TEST_SHARE} images, of which one would be for testing: give"
      " the splits as folders train and test"
    )

  def part(indices):
    return FolderImages(
      whole.root,
      [whole.names[index] for index in indices],
      [whole.labels[index] for index in indices],
      whole.sizes[indices],
    )

  train = [index for index in range(len(whole.names)) if index not in test]
  return {"train": part(train), "test": part(sorted(test))}


def place_of(name: str) -> bytes:
  """Puts names into an order of hashes: neighbours are often alike, such as frames."""
  return hashlib.md5(name.encode(), usedforsecurity=False).digest()


def check_name(dataset: str) -> None:
  """Raises UserError for a name that TFDS cannot use, or that another data set has."""
  if not DATASET_NAME.fullmatch(dataset) or dataset in TAKEN:
    raise UserError(
      f"--name is {dataset}, but it must be made of small letters, digits and _, begin with a"
      f" letter, and not be one of {', '.join(TAKEN)}"
    )


def folder_info(builder, classes: Sequence[str]) -> tfds.core.DatasetInfo:
  """TFDS's description of a data set of labelled images."""
  features = {
    "image": tfds.features.Image(),
    "label": tfds.features.ClassLabel(names=list(classes)),
    "file_name": tfds.features.Text(),
  }
  return tfds.core.DatasetInfo(
    builder=builder,
    description="Images from a folder of class folders.",
    features=tfds.features.FeaturesDict(features),
    supervised_keys=("image", "label"),
  )
