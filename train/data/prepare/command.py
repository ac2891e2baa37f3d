"""What every command of train.prepare does with what it found: write it, and read it back."""

import pathlib
import shlex
from collections.abc import Callable
from typing import NamedTuple

from pst_jax.errors import UserError
from pst_jax.files import require_space
from train.data.prepare.verify import verify
from train.data.prepare.writing import BYTES_PER_RECORD, VERSION, claim


class Source(NamedTuple):
  """What becomes a data set.

  Attributes:
    name: of the data set.
    find: lists the source: number of images, bytes of their files, and what writes the data set.
    counts: images of each split of the whole data set; None: any number will do.
    version: of the data set.
  """

  name: str
  find: Callable[[], tuple[int, int, Callable[[], None]]]
  counts: dict[str, int] | None = None
  version: str = str(VERSION)


def prepare(
  source: Source, data_dir: pathlib.Path, open_split: Callable, *, verify_images: bool
) -> None:
  """Writes `data_dir/name/version` unless it is there, reads it back and prints what it holds.

  Args:
    open_split: see `verify`.
    verify_images: also decode every image.

  Raises:
    UserError: another process prepares there, the disk is too small, something in the source is
      wrong, or what was written is damaged or not whole.
  """
  name, find, counts, version = source
  folder = data_dir / name / version
  with claim(folder.parent):
    if not folder.exists():
      images, num_bytes, write = find()
      needed = num_bytes + BYTES_PER_RECORD * images
      advice = "free some space, or give a --data-dir on another disk"
      free = require_space(folder.parent, needed, "the data set needs", advice)
      print(
        f"{folder.parent}: at most {needed / 1e9:,.2f} GB will be written, {free / 1e9:,.1f} GB are"
        " free"
      )
      write()
    verified = verify(name, version, data_dir, open_split, images=verify_images)
  have = {split: result.images for split, result in verified.items()}
  if counts not in (None, have):
    raise UserError(
      f"{folder} holds {_listed(have)} images, but the whole data set has {_listed(counts)}: remove"
      " that folder to prepare it again, or give --subset to keep it"
    )
  print(f"\n{folder}")
  print("split            images      image bytes  SHA-256 of names, labels and images")
  for split, result in verified.items():
    print(f"{split:<12} {result.images:>10,} {result.image_bytes:>16,}  {result.digest}")
  print(
    f"\nNext:\n  python -m train CONFIG --data.dataset {name} --data.data-dir"
    f" {shlex.quote(str(data_dir))} --data.eval-split"
    f" {'validation' if 'validation' in verified else 'test'}"
  )


def _listed(counts: dict[str, int]) -> str:
  return ", ".join(f"{split} {count:,}" for split, count in counts.items())
