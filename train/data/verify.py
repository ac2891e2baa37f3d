"""Reads a prepared data set from end to end: counts and a digest of every split."""

import hashlib
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from train.config import ConfigError, DataConfig
from train.data.progress import Counter
from train.data.sources import BadImage, open_builder, open_dataset

READERS = 16
CHUNK = 1024


class Verified(NamedTuple):
  """What was read of a split.

  Attributes:
    images: number of records.
    image_bytes: sum of their sizes.
    digest: SHA-256, in hexadecimal digits, over the names, labels and bytes of all images in the
      order of the records: equal where two preparations hold the same.
  """

  images: int
  image_bytes: int
  digest: str


def verify(name: str, version: str, data_dir: pathlib.Path) -> dict[str, Verified]:
  """Reads every record of every split, as training would.

  Raises:
    ConfigError: the data set cannot be opened, or a record cannot be read.
  """
  splits = open_builder(name, data_dir / name / version).info.splits
  dataset = f"{name}:{version}"
  return {
    split: _verify_split(
      f"checking {name} {split}",
      open_dataset(
        DataConfig(dataset=dataset, data_dir=str(data_dir), train_split=split, eval_split=split)
      ).train,
    )
    for split in splits
  }


def _verify_split(title: str, records: Sequence[dict[str, Any]]) -> Verified:
  def read(index: int) -> tuple[int, bytes]:
    try:
      record = records[index]
    except BadImage as error:
      raise ConfigError(f"{error}: remove the data set's folder and prepare it again") from error
    head = f"{record['name']} {record['label']}\n".encode()
    return len(record["image"]), hashlib.sha256(head + record["image"]).digest()

  total, digest = 0, hashlib.sha256()
  with Counter(title, len(records), "images") as counter, ThreadPoolExecutor(READERS) as pool:
    # In chunks: `map` would line up all of ImageNet at once.
    for start in range(0, len(records), CHUNK):
      chunk = range(start, min(start + CHUNK, len(records)))
      for size, part in pool.map(read, chunk):
        total += size
        digest.update(part)
      counter.advance(len(chunk))
  return Verified(len(records), total, digest.hexdigest())
