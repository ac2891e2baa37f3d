"""Writes labelled images as a TFDS data set of array_record files, without TensorFlow.

TFDS's own generator builder keeps a split of up to 1 GB in memory and sorts a larger one through
files that it opens with TensorFlow, so that it cannot write ImageNet without it. Here the names and
sizes of all images are known before any is read, hence so is the order that TFDS's hash of the name
gives: every shard is written once, straight from the source, with no temporary files.
"""

import contextlib
import functools
import io
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from tensorflow_datasets.core import dataset_builder, hashing
from tensorflow_datasets.core.utils import shard_utils

from pst_jax.errors import UserError
from pst_jax.files import lock
from train.data.prepare.progress import Counter

# Images of one shard are read at once by so many threads, to keep a disk's queue filled.
READERS = 16
# What a record takes beside its image (230 bytes were seen), with a margin.
BYTES_PER_RECORD = 400

VERSION = tfds.core.Version("1.0.0")
"""Of the data sets that have none of their own."""

tfds.disable_progress_bar()


class Split(Protocol):
  """Images whose names and sizes are known before they are read.

  Attributes:
    names: unique; they decide the order of the records.
    sizes: bytes of each image.
  """

  names: Sequence[str]
  sizes: Int[np.ndarray, " images"]

  def example(self, index: int) -> dict[str, Any]:
    """The features of an image; called from many threads."""


class SplitBuilder(dataset_builder.ShardBasedBuilder, skip_registration=True):
  """A TFDS builder that writes given splits; subclasses say VERSION and the features.

  The records, their order and the number of shards are those that TFDS's generator builder would
  give for the same names.
  """

  def write(self, splits: Mapping[str, Split]) -> None:
    """Writes `data_dir/name/version`, which appears under that name only when it is whole.

    Memory holds the names and sizes of all images and the bytes of one shard (ImageNet: 150 MB).

    Raises:
      UserError: the folder cannot be written, or what `Split.example` raises.
    """
    self._splits = splits
    total = sum(len(split.names) for split in splits.values())
    try:
      with (
        Counter(f"writing {self.name}", total, "images") as self._counter,
        contextlib.redirect_stdout(io.StringIO()),  # TFDS announces a download
        tempfile.TemporaryDirectory() as download_dir,  # and makes folders for it
      ):
        self.download_and_prepare(download_dir=download_dir, file_format="array_record")
    except (OSError, RuntimeError) as error:  # the latter from array_record
      raise UserError(
        f"{self.data_path} cannot be written ({error}): free space there, or give another"
        " --data-dir"
      ) from error

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
    del dl_manager
    return {
      name: [functools.partial(self._examples, split, shard) for shard in shards(split, name)]
      for name, split in self._splits.items()
    }

  def _examples(
    self, split: Split, indices: Int[np.ndarray, " shard"]
  ) -> Iterator[tuple[str, dict]]:
    with ThreadPoolExecutor(READERS) as pool:
      for index, example in zip(indices, pool.map(split.example, indices), strict=True):
        yield split.names[index], example
        self._counter.advance()


def make_builder(
  dataset: str,
  info: Callable[[Any], tfds.core.DatasetInfo],
  data_dir: pathlib.Path,
  config: tfds.core.BuilderConfig | None = None,
) -> SplitBuilder:
  """A builder of a data set of this name, with what `info` says of it for a builder.

  Args:
    config: the variant of the data set; None: it has none.
  """

  class Made(SplitBuilder, skip_registration=True):
    name = dataset
    VERSION = VERSION
    _info = info

  return Made(data_dir=data_dir, config=config, file_format="array_record")


def shards(split: Split, split_name: str) -> list[Int[np.ndarray, " shard"]]:
  """Indices of a split's images, shard by shard, in TFDS's order: by the MD5 of split and name."""
  hasher = hashing.Hasher(split_name)
  keys = np.array([hasher.hash_key(name).to_bytes(16, "big") for name in split.names], dtype="S16")
  count = shard_utils.ShardConfig().get_number_shards(int(split.sizes.sum()), len(keys))
  boundaries = shard_utils.get_shard_boundaries(len(keys), count)
  return np.split(np.argsort(keys, kind="stable"), boundaries[:-1])


@contextlib.contextmanager
def claim(folder: pathlib.Path) -> Iterator[None]:
  """Keeps other processes from preparing in a data set's folder; removes unfinished versions.

  Raises:
    UserError: another process prepares there, or the folder cannot be written.
  """
  with lock(
    folder / ".lock",
    unwritable=f"{folder} cannot be written ({{reason}}): give another --data-dir",
    busy=f"another process prepares {folder.name} in {folder}: wait until it is done, or stop it",
  ):
    for left_over in folder.glob("incomplete.*"):
      shutil.rmtree(left_over, ignore_errors=True)
    yield
