"""Labelled images: the data sets, and what becomes of a record.

Worker processes import this module: it must not import jax.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pst_jax.errors import UserError
from pst_jax.preprocessing import evaluation_crop
from train.data import prepared, sources
from train.data.sources import Dataset
from train.tasks.base import Entry, zeros
from train.tasks.classification.config import DataConfig
from train.tasks.classification.crops import training_image


def open_dataset(config: DataConfig, splits: tuple[str, ...] = ("train", "eval")) -> Dataset:
  """Opens `config.dataset` for reading; the digits are prepared on first use.

  A record is `{"image": bytes of an image file, "label": int, "name": str for error messages}`.

  Raises:
    UserError: an option is out of range; the data set is not there, not in array_record form, or
      no labelled images; a split is unknown or empty.
  """
  if config.dataset == "synthetic":
    guess = functools.partial(_guess, config.synthetic_classes)
    opened = sources.open_synthetic(config, splits, guess)
    return dataset_of(config, *opened, config.synthetic_classes)
  builder = prepared.open_builder_of(config)
  num_classes = _label(config.dataset, builder.info.features).num_classes
  names = read_class_names(pathlib.Path(builder.data_path), num_classes)
  read = functools.partial(_read_label, num_classes)
  opened = sources.open_splits(config, builder, splits, read)
  return dataset_of(config, *opened, num_classes, names)


def dataset_of(
  config: DataConfig,
  train: Sequence[dict[str, Any]] | None,
  evaluation: Sequence[dict[str, Any]] | None,
  num_classes: int,
  class_names: tuple[str, ...] | None = None,
) -> Dataset:
  """The data set of two splits of such records."""
  return Dataset(
    train=train,
    eval=evaluation,
    num_classes=num_classes,
    class_names=class_names,
    training_example=functools.partial(train_example, config),
    evaluation_example=functools.partial(eval_example, config),
    padding=zeros(example(config)),
  )


def example(config: DataConfig) -> dict[str, Entry]:
  """What an example of a batch holds."""
  size = config.image_size
  return {"image": Entry((size, size, 3), np.uint8), "label": Entry((), np.int32)}


def train_example(
  config: DataConfig, records, index: int, position: int, rng: np.random.Generator
) -> dict:
  """A random crop of an image, augmented as the config says, and its label."""
  record = records[index]
  image = training_image(record["image"], rng, config)
  return {"image": image, "label": np.int32(record["label"])}


def eval_example(config: DataConfig, record: dict) -> dict:
  """The centre of an image, and its label."""
  image = evaluation_crop(record["image"], config.image_size, config.eval_crop)
  return {"image": image, "label": np.int32(record["label"])}


def _read_label(num_classes: int, example: dict) -> dict:
  """Takes image and label out of an example of TFDS; checks that the label can be."""
  label = int(example["label"])
  if not 0 <= label < num_classes:
    raise UserError(
      f"has the label {label}, but the data set declares {num_classes} classes"
      f" (0 to {num_classes - 1}): prepare it again with the right labels."
    )
  return {"image": example["image"], "label": label}


def _guess(num_classes: int, rng: np.random.Generator) -> dict:
  """A random label."""
  return {"label": int(rng.integers(num_classes))}


def _label(dataset: str, features):
  """The feature `label`, once the data set is known to hold labelled images."""
  import tensorflow_datasets as tfds

  label = dict(features).get("label")
  is_label = isinstance(label, tfds.features.ClassLabel) and label.num_classes
  if not (sources.has_images(features) and is_label):
    raise UserError(
      f"dataset {dataset} has the features {sources.described(features)}, but `image` (an 8-bit"
      " Image) and `label` (a ClassLabel with its number of classes) are needed: choose another"
      " data set."
    )
  return label


def read_class_names(folder: pathlib.Path, num_classes: int) -> tuple[str, ...] | None:
  """Names of the classes of the feature `label`, in the order of the labels.

  Returns:
    The names; None if the file of names is not there, as where classes have numbers alone.

  Raises:
    UserError: the file is damaged, or has not one name for each class.
  """
  file = folder / "label.labels.txt"
  try:
    lines = file.read_text(encoding="utf-8").split("\n")
  except FileNotFoundError:
    return None
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"{file} cannot be read ({type(error).__name__}): restore it or prepare the data set again"
    ) from error
  names = tuple(line.strip() for line in lines if line.strip())
  if len(names) != num_classes or len(set(names)) != num_classes:
    raise UserError(
      f"{file} has {len(set(names))} different names for {num_classes} classes: restore it or"
      " prepare the data set again"
    )
  return names
