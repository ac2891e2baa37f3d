"""Data sets as random-access sources of encoded images: digits, synthetic, or any name of TFDS.

A record is `{"image": bytes of an image file, "name": str for error messages, ...}`; what else it
holds is the task's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pst_jax.buckets import reason_of_reader
from pst_jax.errors import UserError
from pst_jax.preprocessing import decode
from train.config_values import check_values
from train.schema import DataConfig

# Features that name an example in the data sets of TFDS, most telling first.
NAME_FEATURES = ("file_name", "filename", "image/filename", "id", "key")


class BadImage(UserError):
  """An image, or its record, is damaged; names it, and says nothing of what to do."""


@dataclass(frozen=True)
class Dataset:
  """The two splits of a data set, and what becomes of their records.

  Files are opened when their first record is read.

  Attributes:
    train: records to train on, `{"image": bytes, "name": str, ...}`; None: not asked for.
    eval: records to evaluate on, likewise.
    num_classes: numbers that the network gives for an image, or a place in it.
    class_names: their names, if they have some.
    training_example: (records, index, position, generator) -> an example of a batch. The records
      are decoded when they are indexed, and may be indexed more than once, for a mosaic of images;
      `position` counts the examples since the start of the run, so that augmentation may end.
    evaluation_example: decoded record -> an example of a batch.
    padding: an example of zeros, of the same shapes.
    decode: bytes of an image file -> pixels, for evaluation.
  """

  train: Sequence[dict[str, Any]] | None
  eval: Sequence[dict[str, Any]] | None
  num_classes: int
  class_names: tuple[str, ...] | None
  training_example: Callable[..., dict]
  evaluation_example: Callable[[dict], dict]
  padding: dict[str, np.ndarray]
  decode: Callable[[bytes], np.ndarray] = decode

  @property
  def num_train(self) -> int:
    return len(self.train)

  @property
  def num_eval(self) -> int:
    return len(self.eval)


def open_splits(
  config: DataConfig, builder, splits: tuple[str, ...], read: Callable[[dict], dict]
) -> list["TfdsRecords | None"]:
  """The records of the training and the evaluation split; None for one that `splits` leaves out.

  Args:
    config: names the splits.
    builder: from `prepared.open_builder_of`.
    splits: "train", "eval" or both.
    read: see `TfdsRecords`; it goes to worker processes.

  Raises:
    UserError: a split is unknown or empty.
  """
  names = {"train": config.train_split, "eval": config.eval_split}
  return [
    open_split(builder, name, config.dataset, read) if split in splits else None
    for split, name in names.items()
  ]


def open_split(builder, split: str, dataset: str, read: Callable[[dict], dict]) -> "TfdsRecords":
  """The records of one split, which may be a slice such as `train[:90%]`; see `open_splits`."""
  import tensorflow_datasets as tfds

  splits = builder.info.splits
  try:
    count = splits[split].num_examples
  except (ValueError, KeyError, AssertionError) as error:
    raise UserError(
      f"dataset {dataset} has no split {split}: name one of {', '.join(splits)}, or a slice such as"
      f" {next(iter(splits), 'train')}[:90%]."
    ) from error
  if count == 0:
    raise UserError(
      f"split {split} of dataset {dataset} is empty: name another of {', '.join(splits)}."
    )
  source = builder.as_data_source(
    split, decoders={"image": tfds.decode.SkipDecoding()}, file_format="array_record"
  )
  return TfdsRecords(source, f"split {split} of dataset {dataset}", read)


@dataclass(frozen=True)
class SyntheticRecords(Sequence):
  """Images of random pixels, made on demand: a function of (split, index).

  Attributes:
    split: 0 or 1.
    length: number of records.
    image_size: side of the images.
    target: generator -> what a record holds beside its image and name.
  """

  split: int
  length: int
  image_size: int
  target: Callable[[np.random.Generator], dict]

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self.length:
      raise IndexError(index)
    rng = np.random.default_rng((self.split, index))
    image = rng.integers(256, size=(self.image_size, self.image_size, 3), dtype=np.uint8)
    return {
      # BMP is the cheapest form to encode and decode, so that the model's speed is what is seen.
      "image": cv2.imencode(".bmp", image)[1].tobytes(),
      **self.target(rng),
      "name": f"record {index} of dataset synthetic",
    }


def open_synthetic(
  config: DataConfig, splits: tuple[str, ...], target: Callable[[np.random.Generator], dict]
) -> list[SyntheticRecords | None]:
  """As `open_splits`, of the data set `synthetic`."""
  check_values(config, "data.")
  return [
    SyntheticRecords(number, config.synthetic_examples, config.image_size, target)
    if split in splits
    else None
    for number, split in enumerate(("train", "eval"))
  ]


class TfdsRecords(Sequence):
  """One split of a prepared TFDS data set; errors name the record.

  Args:
    source: of TFDS.
    name: of the split.
    read: TFDS's example -> the record without its name; raises UserError, with half a sentence that
      the record's name begins, for one that is not of this task.

  Raises (when a record is read):
    BadImage: the record is damaged.
    UserError: the disk or the store fails, which says nothing of the record; or `read` says so.
  """

  def __init__(self, source: Sequence, name: str, read: Callable[[dict], dict]):
    self.source, self.name, self.read = source, name, read

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    name = f"record {index} of {self.name}"
    try:
      example = self.source[index]
      for feature in NAME_FEATURES:
        if feature in example:
          key = example[feature]
          name += f" ({key.decode(errors='replace') if isinstance(key, bytes) else key})"
          break
      return {**self.read(example), "name": name}
    except UserError as error:
      raise UserError(f"{name} {error}") from None
    except Exception as error:  # array_record, protobuf and TFDS each have their own kinds
      if refused := reason_of_reader(str(error)):
        raise UserError(
          f"{name} cannot be read ({refused}): mend that, then give the same command again"
        ) from error
      # array_record says so of a call to the system: "pread() failed: Input/output error".
      if isinstance(error, OSError) or "() failed: " in str(error):
        raise UserError(
          f"{name} cannot be read ({error}): mend the disk or its mount, then give the same command"
          " again"
        ) from error
      raise BadImage(f"{name} cannot be read ({type(error).__name__}: {error})") from error


def has_images(features) -> bool:
  """Whether a data set has `image`, an 8-bit Image."""
  import tensorflow_datasets as tfds

  image = dict(features).get("image")
  return isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8


def described(features) -> str:
  """What a data set has, in words."""
  return ", ".join(
    sorted(f"{name}: {type(feature).__name__}" for name, feature in features.items())
  )
