"""ImageNet 2012 from its two official tars to TFDS's `imagenet2012`, without TensorFlow.

Version, features, order of the classes, validation labels and the names of the images to repair are
TFDS's own, read from the installed package, so that its stock builder reads the result.
"""

import pathlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from tensorflow_datasets.datasets.imagenet2012 import (
  imagenet2012_dataset_builder as official,
)
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

from pst_jax.errors import ImageError, UserError
from pst_jax.preprocessing import decode
from train.data.prepare import tars
from train.data.prepare.progress import Counter
from train.data.prepare.smaller import encode_jpeg
from train.data.prepare.tar_headers import Member
from train.data.prepare.writing import SplitBuilder

NAME = "imagenet2012"
TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
# Images of the whole data set, from the description of ILSVRC 2012.
COUNTS = {"train": 1_281_167, "validation": 50_000}
VALIDATION_NAME = "ILSVRC2012_val_{:08d}.JPEG"
AS_OFFICIAL = "give the tar of ILSVRC 2012 (task 1 and 2) as image-net.org has it"
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
    UserError: a tar is missing or cut short, or its names are not the official ones.
  """
  train, validation = manual_dir / TRAIN_TAR, manual_dir / VALIDATION_TAR
  classes, validation_images = tars.list_members(train), tars.list_members(validation)
  check_official(train, [member.name for member in classes], subset)
  check_official(validation, [member.name for member in validation_images], subset)
  return Tars(train, validation, classes, validation_images)


def check_official(path: pathlib.Path, found: Sequence[str], subset: bool) -> None:
  """Raises UserError unless a tar holds what is official, or with `subset` some of it."""
  if path.name == TRAIN_TAR:
    expected, what = [f"{name}.tar" for name in class_names()], "classes"
    one = "tar of one of the 1,000 classes"
  else:
    # Their labels are a list in the order of the numbers: a gap would shift the labels after it.
    numbers = range(1, COUNTS["validation"] + 1)
    expected, what = [VALIDATION_NAME.format(number) for number in numbers], "validation images"
    one = "validation image of ILSVRC 2012"
  _check_names(path, found, set(expected).__contains__, f"{one}: {AS_OFFICIAL}")
  present = set(found)
  missing = next((name for name in expected if name not in present), None)
  if missing and not subset:
    raise UserError(
      f"{path} holds {len(found)} of the {len(expected):,} {what} ({missing} is the first that is"
      " missing): download it again, or give --subset to try the pipeline with what is there"
    )


def _check_names(where: object, found: Sequence[str], is_right: Callable, wanted: str) -> None:
  wrong = next((name for name in found if not is_right(name)), None)
  if wrong is not None:
    raise UserError(f"{where} holds {wrong}, which is no {wanted}")
  if len(set(found)) != len(found):
    raise UserError(f"{where} holds the same name twice: download it again")


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
    UserError: a tar inside is damaged, an image has a wrong name, or some are missing.
  """
  members, labels = [], []
  with Counter(f"listing {found.train.name}", len(found.classes), "classes") as counter:
    for inner in found.classes:
      name = inner.name.removesuffix(".tar")
      inside = tars.list_members(found.train, inner)
      _check_names(
        f"{inner.name} in {found.train}",
        [member.name for member in inside],
        re.compile(rf"{name}_\d+\.JPEG").fullmatch,
        "image of that class: download it again",
      )
      members += inside
      labels += [name] * len(inside)
      counter.advance()
  if len(members) != COUNTS["train"] and not subset:
    raise UserError(
      f"{found.train} holds {len(members):,} images, but ILSVRC 2012 has {COUNTS['train']:,}:"
      " download it again"
    )
  label_of = {VALIDATION_NAME.format(n): label for n, label in enumerate(validation_labels(), 1)}
  validation = [label_of[member.name] for member in found.validation_images]
  return {
    "train": _tar_images(found.train, members, labels),
    "validation": _tar_images(found.validation, found.validation_images, validation),
  }


def _tar_images(path, members, labels):
  names, offsets, sizes = zip(*members, strict=True)
  return TarImages(path, names, labels, np.array(offsets), np.array(sizes))


def repair(encoded: bytes) -> bytes:
  """A CMYK JPEG or a PNG as an RGB JPEG of quality 100, as the official builder stores it.

  OpenCV reads CMYK as Adobe's programs write it, ink inverted, and multiplies each ink by black:
  TensorFlow's formula for those files, but for rounding: at most 2 of 255 levels.

  Raises:
    UserError: the image cannot be decoded.
  """
  try:
    return encode_jpeg(decode(encoded), 100)
  except ImageError as error:
    raise UserError(f"an image to repair is damaged ({error}): download the tar again") from error
