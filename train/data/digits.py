"""scikit-learn's 1,797 handwritten digits as a TFDS data set: no download, no TensorFlow.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998), its test
part, which ships inside scikit-learn: 8 x 8 gray pixels of 17 levels.
"""

import contextlib
import io
import pathlib
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from sklearn import datasets

MAX_LEVEL = 16
TEST_EVERY = 5


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Splits `train` (1,437) and `test` (360): every fifth image of each class is a test image."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="8 x 8 gray images of handwritten digits, from scikit-learn.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    digits, chosen = load_splits()
    return {split: self._generate_examples(digits, indices) for split, indices in chosen.items()}

  def _generate_examples(self, digits, indices):
    for index in indices:
      pixels = np.round(digits.images[index] * (255 / MAX_LEVEL)).astype(np.uint8)
      # TFDS would call TensorFlow to encode an array; bytes it stores as they are.
      encoded = cv2.imencode(".png", pixels)[1].tobytes()
      yield int(index), {"image": encoded, "label": digits.target[index]}


def load_splits() -> tuple[Any, dict[str, Int[np.ndarray, " digits"]]]:
  """scikit-learn's digits, and the indices of those of each split."""
  digits = datasets.load_digits()
  by_class = np.argsort(digits.target, kind="stable")
  is_test = np.arange(len(by_class)) % TEST_EVERY == 0
  return digits, {"train": by_class[~is_test], "test": by_class[is_test]}


def prepare(data_dir: pathlib.Path) -> None:
  """Writes the digits as array_record files under `data_dir/digits`; see `write_once`."""
  write_once(Digits(data_dir=data_dir, file_format="array_record"))


def write_once(builder: tfds.core.GeneratorBasedBuilder) -> None:
  """Writes a data set, unless it is there.

  TFDS writes into a folder of another name and renames it when all is written, so that a data set
  is there whole or not at all, also when several processes prepare it at once.

  Raises:
    OSError: the folder cannot be written.
  """
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
      builder.download_and_prepare()
  except OSError:
    # If another process was faster, our rename fails and its data set is as good as ours.
    if not builder.data_path.exists():
      raise
