"""Data sets as random-access sources of encoded images: digits, synthetic, or any name of TFDS.

A record is `{"image": bytes of an image file, "label": int, "name": str for error messages}`.
"""

import pathlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from train.config import Config, ConfigError, DataConfig, check
from train.paths import local_folder

VERSION_FOLDER = re.compile(r"\d+\.\d+\.\d+")
# Features that name an example in the data sets of TFDS, most telling first.
NAME_FEATURES = ("file_name", "filename", "image/filename", "id", "key")
PREPARE = {
  "imagenet2012": "`python -m train.prepare imagenet2012 --manual-dir FOLDER_OF_THE_TARS --data-dir"
  " {data_dir}`"
}
# The command `tfds` imports both, whatever it is asked to do.
TFDS_NEEDS = "where tensorflow and apache-beam are installed"
BUILD = (
  "`tfds build {name} --file_format=array_record --data_dir={data_dir}` "
  f"{TFDS_NEEDS} (images of your own: `python -m train.prepare folder`)"
)
# With its default of 8 workers the command ends as if all were well when a worker fails.
CONVERT = (
  "`tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
  f" --num_workers=1` {TFDS_NEEDS}"
)


class BadImage(ConfigError):
  """An image, or its record, is damaged; names it, and says nothing of what to do."""


@dataclass(frozen=True)
class Dataset:
  """The two splits of a data set; files are opened when their first record is read."""

  train: Sequence[dict[str, Any]]
  eval: Sequence[dict[str, Any]]
  num_classes: int
  class_names: tuple[str, ...] | None

  @property
  def num_train(self) -> int:
    return len(self.train)

  @property
  def num_eval(self) -> int:
    return len(self.eval)


def open_dataset(config: DataConfig) -> Dataset:
  """Opens `config.dataset` for reading; the digits are prepared on first use.

  Raises:
    ConfigError: an option is out of range; the data set is not there, not in array_record form, or
      no labelled images; a split is unknown or empty.
  """
  check(Config(data=config))
  if config.dataset == "synthetic":
    return _open_synthetic(config)
  data_dir = local_folder(config.data_dir, "data.data_dir").absolute()
  if config.dataset == "digits":
    _prepare_digits(data_dir)
  return _open_tfds(config, _find_folder(config.dataset, data_dir))


class SyntheticRecords(Sequence):
  """Images of random pixels with random labels, made on demand: a function of (split, index)."""

  def __init__(self, split: int, length: int, image_size: int, num_classes: int):
    self.split, self.length = split, length
    self.image_size, self.num_classes = image_size, num_classes

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
      "label": int(rng.integers(self.num_classes)),
      "name": f"record {index} of dataset synthetic",
    }


def _open_synthetic(config: DataConfig) -> Dataset:
  train, evaluation = (
    SyntheticRecords(split, config.synthetic_examples, config.image_size, config.synthetic_classes)
    for split in range(2)
  )
  return Dataset(train, evaluation, config.synthetic_classes, class_names=None)


class TfdsRecords(Sequence):
  """One split of a prepared TFDS data set; errors name the record.

  Raises (when a record is read):
    BadImage: the record cannot be read.
    ConfigError: its label is not in [0, num_classes).
  """

  def __init__(self, source: Sequence, name: str, num_classes: int):
    self.source, self.name, self.num_classes = source, name, num_classes

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    name = f"record {index} of {self.name}"
    try:
      example = self.source[index]
      image, label = example["image"], int(example["label"])
    except Exception as error:  # array_record, protobuf and TFDS each have their own kinds
      raise BadImage(f"{name} cannot be read ({type(error).__name__}: {error})") from error
    for feature in NAME_FEATURES:
      if feature in example:
        key = example[feature]
        name += f" ({key.decode(errors='replace') if isinstance(key, bytes) else key})"
        break
    if not 0 <= label < self.num_classes:
      raise ConfigError(
        f"{name} has the label {label}, but the data set declares {self.num_classes} classes"
        f" (0 to {self.num_classes - 1}): prepare it again with the right labels."
      )
    return {"image": image, "label": label, "name": name}


def _prepare_digits(data_dir: pathlib.Path) -> None:
  if (data_dir / "digits").is_dir() and _versions(data_dir / "digits"):
    return
  # Imported here because scikit-learn takes seconds to import and is needed only once.
  from train.data import digits

  try:
    digits.prepare(data_dir)
  except OSError as error:
    raise ConfigError(
      f"dataset digits cannot be written to {data_dir} ({error}): give a folder that can, with"
      " --data.data-dir."
    ) from error


def _versions(folder: pathlib.Path) -> list[str]:
  """Complete versions in a data set's folder, oldest first."""
  found = [
    path.name
    for path in folder.iterdir()
    if VERSION_FOLDER.fullmatch(path.name) and (path / "features.json").exists()
  ]
  return sorted(found, key=lambda version: tuple(map(int, version.split("."))))


def _find_folder(dataset: str, data_dir: pathlib.Path) -> pathlib.Path:
  """The folder of `name`, `name/config`, `name:1.2.3` or `name/config:1.2.3`; newest by default."""
  name, _, version = dataset.partition(":")
  folder = data_dir / name
  if folder.is_dir():
    versions = _versions(folder)
    if versions and not version:
      return folder / versions[-1]
    if version in versions:
      return folder / version
    configs = [path.name for path in folder.iterdir() if path.is_dir() and _versions(path)]
    if versions or configs:
      have = versions or [f"{name}/{config}" for config in sorted(configs)]
      raise ConfigError(
        f"dataset {dataset} is not in {data_dir}, which has {', '.join(have)}: name one of them."
      )
  raise ConfigError(
    f"dataset {dataset} is not in {data_dir}: point --data.data-dir (evaluating: --data-dir) at the"
    " folder that holds it, or prepare it with"
    f" {PREPARE.get(name, BUILD).format(name=name, data_dir=data_dir)}."
  )


def open_builder(dataset: str, folder: pathlib.Path):
  """TFDS's reader of a prepared version's folder.

  Raises:
    ConfigError: its metadata are damaged, or its records are in another format than array_record.
  """
  # Imported here because it takes most of a second, which --help and `synthetic` need not wait for.
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # JSON, protobuf and TFDS each have their own kinds
    raise ConfigError(
      f"dataset {dataset} in {folder} cannot be opened ({type(error).__name__}: {error}):"
      " restore its JSON files or prepare it again."
    ) from error
  formats = sorted(each.value for each in builder.info.available_file_formats())
  if "array_record" not in formats:
    raise ConfigError(
      f"dataset {dataset} in {folder} is stored as {' and '.join(formats)}, but array_record is"
      f" needed: convert it with {CONVERT.format(folder=shlex.quote(str(folder)))}"
      f"{_prepare_elsewhere(builder.info.name)}."
    )
  return builder


def _prepare_elsewhere(name: str) -> str:
  if name not in PREPARE:
    return ""
  return f", or prepare it in another folder with {PREPARE[name].format(data_dir='ANOTHER_FOLDER')}"


def _open_tfds(config: DataConfig, folder: pathlib.Path) -> Dataset:
  import tensorflow_datasets as tfds

  builder = open_builder(config.dataset, folder)
  info = builder.info
  _check_features(config.dataset, info.features, tfds)
  num_classes = info.features["label"].num_classes

  def open_split(split: str) -> TfdsRecords:
    _check_split(config.dataset, info.splits, split)
    source = builder.as_data_source(
      split, decoders={"image": tfds.decode.SkipDecoding()}, file_format="array_record"
    )
    return TfdsRecords(source, f"split {split} of dataset {config.dataset}", num_classes)

  return Dataset(
    train=open_split(config.train_split),
    eval=open_split(config.eval_split),
    num_classes=num_classes,
    class_names=tuple(info.features["label"].names),
  )


def _check_features(dataset: str, features, tfds) -> None:
  image, label = (dict(features).get(name) for name in ("image", "label"))
  usable = (
    isinstance(image, tfds.features.Image)
    and image.np_dtype == np.uint8
    and isinstance(label, tfds.features.ClassLabel)
    and label.num_classes
  )
  if not usable:
    have = ", ".join(
      sorted(f"{name}: {type(feature).__name__}" for name, feature in features.items())
    )
    raise ConfigError(
      f"dataset {dataset} has the features {have}, but `image` (an 8-bit Image) and `label` (a"
      " ClassLabel with its number of classes) are needed: choose another data set."
    )


def _check_split(dataset: str, splits, split: str) -> None:
  """`split` may be a slice in TFDS's notation, such as `train[:90%]`."""
  try:
    count = splits[split].num_examples
  except (ValueError, KeyError, AssertionError) as error:
    raise ConfigError(
      f"dataset {dataset} has no split {split}: name one of {', '.join(splits)}, or a slice such as"
      f" {next(iter(splits), 'train')}[:90%]."
    ) from error
  if count == 0:
    raise ConfigError(
      f"split {split} of dataset {dataset} is empty: name another of {', '.join(splits)}."
    )
