"""Prepared data sets on the disk: found by name and version, opened with TFDS, made on first use.

Worker processes import this module: it must not import jax.
"""

import importlib
import pathlib
import re
import shlex

from pst_jax.buckets import is_absent, is_url
from pst_jax.errors import UserError
from pst_jax.files import place
from train.config_values import check_values
from train.data.feature_files import check_feature_classes
from train.schema import DataConfig

VERSION_FOLDER = re.compile(r"\d+\.\d+\.\d+")
# Data sets that are made on first use, and the modules that make them.
MADE = {"digits": "train.data.digits", "digit_scenes": "train.data.digit_scenes"}
PREPARE = {
  "coco2017": "`python -m train.prepare coco --manual-dir FOLDER_OF_THE_ZIPS --data-dir"
  " {data_dir}`",
  "imagenet2012": "`python -m train.prepare imagenet2012 --manual-dir FOLDER_OF_THE_TARS --data-dir"
  " {data_dir}`",
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


def open_builder_of(config: DataConfig):
  """TFDS's reader of `config.dataset`; the digits are prepared on first use.

  Raises:
    UserError: an option is out of range; the data set is not there, or not in array_record form.
  """
  check_values(config, "data.")
  data_dir = place(config.data_dir, "data.data_dir", ("gs",))
  if not is_url(data_dir):
    data_dir = data_dir.absolute()
  if config.dataset in MADE:
    _make(config.dataset, data_dir)
  return open_builder(config.dataset, _find_folder(config.dataset, data_dir))


def _make(dataset: str, data_dir: pathlib.Path) -> None:
  if is_url(data_dir) or ((data_dir / dataset).is_dir() and _versions(data_dir / dataset)):
    return
  # Imported here because scikit-learn takes seconds to import and is needed only once.
  module = importlib.import_module(MADE[dataset])
  try:
    module.prepare(data_dir)
  except OSError as error:
    raise UserError(
      f"dataset {dataset} cannot be written to {data_dir} ({error}): give a folder that can, with"
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
  if is_url(folder) and is_absent(folder):
    raise UserError(
      f"dataset {dataset} is not in {data_dir}: prepare it in a local folder, and copy that"
      f" there (gcloud storage cp -r DATA/{name} {data_dir}/)."
    )
  if folder.is_dir():
    versions = _versions(folder)
    if versions and not version:
      return folder / versions[-1]
    if version in versions:
      return folder / version
    configs = [path.name for path in folder.iterdir() if path.is_dir() and _versions(path)]
    if versions or configs:
      have = versions or [f"{name}/{config}" for config in sorted(configs)]
      raise UserError(
        f"dataset {dataset} is not in {data_dir}, which has {', '.join(have)}: name one of them."
      )
  base, _, variant = name.partition("/")
  command = PREPARE.get(base, BUILD)
  if side := re.fullmatch(r"short_side_(\d+)", variant):
    command = command.replace(f"prepare {base}", f"prepare {base} --short-side {side[1]}")
  raise UserError(
    f"dataset {dataset} is not in {data_dir}: point --data.data-dir (evaluating: --data-dir) at the"
    " folder that holds it, or prepare it with"
    f" {command.format(name=name, data_dir=data_dir)}."
  )


def open_builder(dataset: str, folder: pathlib.Path):
  """TFDS's reader of a prepared version's folder.

  Raises:
    UserError: its metadata are damaged, or its records are in another format than array_record.
  """
  check_feature_classes(dataset, folder)
  # Imported here because it takes most of a second, which --help and `synthetic` need not wait for.
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # JSON, protobuf and TFDS each have their own kinds
    raise UserError(
      f"dataset {dataset} in {folder} cannot be opened ({type(error).__name__}: {error}):"
      " restore its JSON files or prepare it again."
    ) from error
  formats = sorted(each.value for each in builder.info.available_file_formats())
  if "array_record" not in formats:
    command = PREPARE.get(builder.info.name, "").format(data_dir="ANOTHER_FOLDER")
    elsewhere = command and f", or prepare it in another folder with {command}"
    raise UserError(
      f"dataset {dataset} in {folder} is stored as {' and '.join(formats)}, but array_record is"
      f" needed: convert it with {CONVERT.format(folder=shlex.quote(str(folder)))}{elsewhere}."
    )
  return builder
