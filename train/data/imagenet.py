"""ImageNet 2012 from its two official tars to TFDS's `imagenet2012`, without TensorFlow.

Version, features, order of the classes, validation labels and the names of the images to repair are
TFDS's own, read from the installed package, so that its stock builder reads the result.
"""

import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int
from tensorflow_datasets.datasets.imagenet2012 import (
  imagenet2012_dataset_builder as official,
)
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

from train.config import ConfigError
from train.data import images, tars
from train.data.progress import Counter
from train.data.tars import Member
from train.data.writing import SplitBuilder

NAME = "imagenet2012"
TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
# Images of the whole data set, from the description of ILSVRC 2012.
COUNTS = {"train": 1_281_167, "validation": 50_000}
VALIDATION_NAME = "ILSVRC2012_val_{:08d}.JPEG"
VALIDATION_PATTERN = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
# CMYK JPEGs, and one PNG, among the training images; the official builder repairs them likewise.
TO_REPAIR = frozenset(official.CMYK_IMAGES + official.PNG_IMAGES)


class Imagenet2012(SplitBuilder, skip_registration=True):
  """The official builder's name, version and features, written by `SplitBuilder`."""

  VERSION = official.Builder.VERSION
  RELEASE_NOTES = official.Builder.RELEASE_NOTES
  pkg_dir_path = imagenet_common.label_names_file().parent  # where description and citation lie
  _info = official.Builder._info


def class_names() -> list[str]:
  """The 1,000 WordNet ids in the order of the labels."""
  return imagenet_common.label_names_file().read_text().split()


def validation_labels() -> list[str]:
  """The WordNet id of each validation image, in the order of their numbers."""
  file = imagenet_common.label_names_file().with_name("validation_labels.txt")
  return file.read_text().split()


@dataclass(frozen=True)
class Tars:
  """What `preflight` found.

  Attributes:
    train: path of the training tar.
    validation: path of the validation tar.
    classes: the training tar's members, a tar for each class.
    validation_images: the validation tar's members.
  """

  train: pathlib.Path
  validation: pathlib.Path
  classes: Sequence[Member]
  validation_images: Sequence[Member]

  @property
  def num_bytes(self) -> int:
    return sum(member.size for member in (*self.classes, *self.validation_images))


def preflight(manual_dir: pathlib.Path, subset: bool = False) -> Tars:
  """Checks both tars by their outer headers alone, in seconds.

  Args:
    manual_dir: the folder that holds them under their official names.
    subset: accept a part of the classes and of the validation images.

  Raises:
    ConfigError: a tar is missing or cut short, or its names are not the official ones.
  """
  train, validation = manual_dir / TRAIN_TAR, manual_dir / VALIDATION_TAR
  classes, validation_images = tars.list_members(train), tars.list_members(validation)
  check_classes(train, [member.name for member in classes], subset)
  check_validation(validation, [member.name for member in validation_images], subset)
  return Tars(train, validation, classes, validation_images)


def check_classes(path: pathlib.Path, found: Sequence[str], subset: bool) -> None:
  """Raises ConfigError unless a tar for every class, or with `subset` for some, was found."""
  expected = {f"{name}.tar" for name in class_names()}
  _refuse_unexpected(path, found, expected, "tar of one of the 1,000 classes")
  missing = sorted(expected - set(found))
  if missing and not subset:
    raise ConfigError(
      f"{path} holds {len(found)} of the 1,000 classes ({missing[0]} is the first that is missing):"
      " download it again, or give --subset to try the pipeline with what is there"
    )


def check_validation(path: pathlib.Path, found: Sequence[str], subset: bool) -> None:
  """Raises ConfigError unless the validation images are numbered without a gap.

  Their labels are a list in the order of the numbers: a gap would shift the labels after it.
  """
  expected = [VALIDATION_NAME.format(number + 1) for number in range(COUNTS["validation"])]
  _refuse_unexpected(path, found, set(expected), "validation image of ILSVRC 2012")
  present = set(found)
  missing = next((name for name in expected if name not in present), None)
  if missing and not subset:
    raise ConfigError(
      f"{path} holds {len(found)} of the 50,000 validation images ({missing} is the first that is"
      " missing): download it again, or give --subset to try the pipeline with what is there"
    )


def _refuse_unexpected(path, found, expected, what):
  wrong = next((name for name in found if name not in expected), None)
  if wrong is not None:
    raise ConfigError(
      f"{path} holds {wrong}, which is no {what}: give the tar of ILSVRC 2012 (task 1 and 2) as"
      " image-net.org has it"
    )
  if len(set(found)) != len(found):
    raise ConfigError(f"{path} holds the same name twice: download it again")


@dataclass(frozen=True)
class TarImages:
  """A split whose images lie in a tar; see `writing.Split`."""

  path: pathlib.Path
  names: Sequence[str]
  labels: Sequence[str]
  offsets: Int[np.ndarray, " images"]
  sizes: Int[np.ndarray, " images"]

  def example(self, index: int) -> dict[str, Any]:
    member = Member(self.names[index], int(self.offsets[index]), int(self.sizes[index]))
    image = tars.read_member(self.path, member)
    if member.name in TO_REPAIR:
      image = repair(image)
    return {"file_name": member.name, "image": image, "label": self.labels[index]}


def index_splits(found: Tars, subset: bool = False) -> dict[str, TarImages]:
  """Lists every image, by reading the headers of the tars inside the training tar.

  Raises:
    ConfigError: a tar inside is damaged, an image has a wrong name, or some are missing.
  """
  members, labels = [], []
  with Counter(f"listing {found.train.name}", len(found.classes), "classes") as counter:
    for inner in found.classes:
      name = inner.name.removesuffix(".tar")
      inside = tars.list_members(found.train, inner)
      _refuse_foreign(found.train, inner, name, inside)
      members += inside
      labels += [name] * len(inside)
      counter.advance()
  if len(members) != COUNTS["train"] and not subset:
    raise ConfigError(
      f"{found.train} holds {len(members):,} images, but ILSVRC 2012 has {COUNTS['train']:,}:"
      " download it again"
    )
  validation = validation_labels()
  numbers = [
    int(VALIDATION_PATTERN.fullmatch(member.name)[1]) for member in found.validation_images
  ]
  return {
    "train": _tar_images(found.train, members, labels),
    "validation": _tar_images(
      found.validation, found.validation_images, [validation[number - 1] for number in numbers]
    ),
  }


def _refuse_foreign(path, inner, name, inside):
  for member in inside:
    if not re.fullmatch(rf"{name}_\d+\.JPEG", member.name):
      raise ConfigError(
        f"{inner.name} in {path} holds {member.name}, which is no image of that class: download it"
        " again"
      )
  if len({member.name for member in inside}) != len(inside):
    raise ConfigError(f"{inner.name} in {path} holds the same name twice: download it again")


def _tar_images(path, members, labels):
  names, offsets, sizes = zip(*members, strict=True)
  return TarImages(path, names, labels, np.array(offsets), np.array(sizes))


def repair(encoded: bytes) -> bytes:
  """A CMYK JPEG or a PNG as an RGB JPEG of quality 100, as the official builder stores it.

  OpenCV reads CMYK as Adobe's programs write it, ink inverted, and multiplies each ink by black:
  TensorFlow's formula for those files, but for rounding: at most 2 of 255 levels.

  Raises:
    ConfigError: the image cannot be decoded.
  """
  try:
    pixels = cv2.cvtColor(images.decode(encoded), cv2.COLOR_RGB2BGR)
  except ValueError as error:
    raise ConfigError(f"an image to repair is damaged ({error}): download the tar again") from error
  return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
