"""Reads a prepared data set from end to end: counts and a digest of every split."""

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pst_jax.errors import ImageError, UserError
from pst_jax.preprocessing import decode
from train.data.box_records import BoxRecord, has_boxes
from train.data.prepare.progress import Counter
from train.data.prepared import open_builder
from train.data.sources import BadImage

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


def verify(
  name: str, version: str, data_dir: pathlib.Path, open_split: Callable, *, images: bool = False
) -> dict[str, Verified]:
  """Reads every record of every split, as training would.

  Args:
    open_split: (whether it has boxes, dataset=..., data_dir=..., train_split=...) -> its records.
    images: also decode every image. Damage that leaves another picture (a flipped bit in a JPEG
      often does) cannot be told from the picture that was meant.

  Raises:
    UserError: the data set cannot be opened, a record cannot be read, or an image not decoded.
  """
  builder = open_builder(name, data_dir / name / version)
  place = {"dataset": f"{name}:{version}", "data_dir": str(data_dir)}
  boxes, verified = has_boxes(builder.info.features), {}
  for split in builder.info.splits:
    records = open_split(boxes, **place, train_split=split)
    content = _boxes if boxes else _label
    verified[split] = _verify_split(f"checking {name} {split}", records, content, images)
  return verified


def _label(record: dict[str, Any]) -> tuple[bytes, bytes]:
  """All that is known of a labelled image, and the image."""
  return f"{record['name']} {record['label']}\n".encode(), record["image"]


def _boxes(record: BoxRecord) -> tuple[bytes, bytes]:
  arrays = (record["boxes"], record["classes"], record["crowd"], record["area"])
  points = (each for polygons in record["polygons"] for each in polygons)
  known = b"".join(each.tobytes() for each in (*arrays, *points))
  return f"{record['name']} {record['image_id']}\n".encode() + known, record["image"]


def _verify_split(title: str, records: Sequence, content: Callable, images: bool) -> Verified:
  def read(index: int) -> tuple[int, bytes]:
    try:
      record = records[index]
    except BadImage as error:
      raise UserError(f"{error}: remove the data set's folder and prepare it again") from error
    try:
      if images:
        decode(record["image"])
    except ImageError as error:
      raise UserError(
        f"the image of {record['name']} is damaged ({error}): repair it where it came from, remove"
        " the data set's folder and prepare it again"
      ) from error
    head, image = content(record)
    return len(image), hashlib.sha256(head + image).digest()

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
