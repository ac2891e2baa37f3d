"""Fashion-MNIST's four idx files to TFDS's `fashion_mnist`, without TensorFlow.

The form of the files is that of MNIST (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist).
Version and features are TFDS's own, and so is the order of the records.
"""

import gzip
import pathlib
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from tensorflow_datasets.image_classification import mnist as official

from pst_jax.errors import UserError
from train.data.prepare.writing import SplitBuilder

NAME = "fashion_mnist"
FILES = {"train": "train", "test": "t10k"}
"""How the names of the files begin, by TFDS's name of the split."""
COUNTS = {"train": 60_000, "test": 10_000}
"""Images of the whole data set (Xiao, Rasul and Vollgraf, 2017)."""
SIDE, CLASSES = official.MNIST_IMAGE_SHAPE[0], official.MNIST_NUM_CLASSES


class FashionMnist(SplitBuilder, skip_registration=True):
  """The official builder's name, version and features, written by `SplitBuilder`."""

  name = NAME
  VERSION = official.FashionMNIST.VERSION
  _info = official.FashionMNIST._info


@dataclass(frozen=True)
class IdxImages:
  """A split; see `writing.Split`. The names are the numbers of the images, as TFDS has them."""

  images: UInt8[np.ndarray, "images side side"]
  labels: UInt8[np.ndarray, " images"]

  @property
  def names(self) -> list[str]:
    return [str(index) for index in range(len(self.images))]

  @property
  def sizes(self) -> Int[np.ndarray, " images"]:
    return np.full(len(self.images), SIDE * SIDE)

  def example(self, index: int) -> dict[str, Any]:
    image = cv2.imencode(".png", self.images[index])[1].tobytes()
    return {"image": image, "label": int(self.labels[index])}


def read_splits(source: pathlib.Path) -> dict[str, IdxImages]:
  """Reads the files of a folder, compressed (.gz) as they are published or not.

  Raises:
    UserError: a file is missing, of another kind, damaged or cut short, or the two of a split do
      not belong together.
  """
  splits = {}
  for split, start in FILES.items():
    images = _read(source / f"{start}-images-idx3-ubyte", (SIDE, SIDE))
    labels = _read(source / f"{start}-labels-idx1-ubyte", ())
    if len(images) != len(labels):
      raise UserError(
        f"{source} has {len(images):,} images and {len(labels):,} labels of the split {split}: give"
        " the four files of one download"
      )
    if labels.size and labels.max() >= CLASSES:
      raise UserError(
        f"{source} has the label {labels.max()} in the split {split}, but there are {CLASSES}"
        f" classes (0 to {CLASSES - 1}): download the file of labels again"
      )
    splits[split] = IdxImages(images, labels)
  return splits


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
  """The bytes of an idx file whose items have this shape."""
  packed = path.with_name(f"{path.name}.gz")
  found = packed if packed.exists() else path
  # 0, 0, the type (8: a byte), the number of axes; then each of them as 4 bytes, the highest first.
  magic, items = bytes([0, 0, 8, 1 + len(shape)]), int(np.prod(shape, dtype=np.int64))
  size_of_head = 4 * (2 + len(shape))
  try:
    with gzip.open(found) if found is packed else found.open("rb") as file:
      head = file.read(size_of_head)
      count, *axes = np.frombuffer(head.ljust(size_of_head, b"\0"), ">u4")[1:].tolist()
      if len(head) != size_of_head or head[:4] != magic or tuple(axes) != shape:
        what = f"images of {SIDE} x {SIDE}" if shape else "labels"
        raise UserError(f"{found} is no idx file of {what}: give the folder of the four files")
      # No more than what it should be is read, whatever it would unpack to.
      size = count * items
      content = file.read(min(size, max(COUNTS.values()) * items) + 1)
  except FileNotFoundError as error:
    raise UserError(
      f"{packed} is not there: give --source, the folder of Fashion-MNIST's four files (Debian's"
      " package dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist)"
    ) from error
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{found} cannot be read ({error}): download it again") from error
  if len(content) != size:
    raise UserError(f"{found} says that it has {count:,} items, but it does not: download it again")
  return np.frombuffer(content, np.uint8).reshape(-1, *shape)
