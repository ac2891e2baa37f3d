"""Reading whole checkpoints for no other reason than to know that they are good."""

import contextlib
import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from pst_jax.buckets import is_url
from pst_jax.checkpoints import layout, quiet, read
from pst_jax.checkpoints.layout import CorruptError, Identity
from pst_jax.errors import UserError
from pst_jax.presence import is_folder

_GROUP_BYTES = 2**28
"""So much of a checkpoint is in memory at a time."""

_PATIENCE_SECONDS = 1.0
"""How long a run takes to delete the rest of a checkpoint that it has begun to delete."""


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What reading a checkpoint has shown: its arrays of `size` bytes, or (not None) a problem."""

  step: int
  problem: str | None
  arrays: int = 0
  size: int = 0


def verify_all(directory: pathlib.Path, identity: Identity | None = None) -> Iterator[Verdict]:
  """Reads every checkpoint of a folder, oldest first, of the run `identity` (None: of any).

  A run may go on in the folder: checkpoints that come meanwhile are read as well, and one that it
  deletes is left out.
  """
  quiet.install()
  seen = set()
  while new := [step for step in layout.saved_steps(directory) if step not in seen]:
    seen.update(new)
    for step in new:
      verdict = _verdict(directory, step, identity or Identity())
      if verdict.problem:  # again, as it may be on its way out
        time.sleep(_PATIENCE_SECONDS)
        verdict = _verdict(directory, step, identity or Identity())
      if is_folder(directory / str(step)):
        yield verdict


def _verdict(directory: pathlib.Path, step: int, identity: Identity) -> Verdict:
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    # Where 64 bits are not enabled, float64 would be read as float32.
    with jax.enable_x64(True):
      arrays = read_whole(directory, step, lambda name: place, identity)
  except (CorruptError, UserError) as error:
    return Verdict(step, str(error))
  sizes = [math.prod(x.shape) * x.dtype.itemsize for x in arrays.values()]
  return Verdict(step, None, len(arrays), sum(sizes))


def read_whole(
  directory: pathlib.Path,
  step: int,
  place: Callable[[str], jax.sharding.Sharding],
  identity: Identity,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Reads and compares all arrays of a checkpoint, a part at a time; every process calls it alike.

  `place` says where an array of a name is to be read. Returns the shape and type of every array;
  errors as `read.read_checkpoint`.
  """
  _forget_cached(directory / str(step))
  found: dict[str, jax.ShapeDtypeStruct] = {}
  is_done = False

  def choose(record, what):
    """The next leaves, of `_GROUP_BYTES` together, but one at least."""
    nonlocal is_done
    part, size = {}, 0
    for name, (dtype, shape, _) in record["leaves"].items():
      if name in found:
        continue
      leaf = jax.ShapeDtypeStruct(shape, dtype, sharding=place(name))
      size += math.prod(leaf.shape) * leaf.dtype.itemsize
      if part and size > _GROUP_BYTES:
        break
      part[name] = leaf
    found.update(part)
    is_done = len(found) == len(record["leaves"])
    return part

  while not is_done:
    read.read_checkpoint(directory, step, choose, identity)
  return found


def _forget_cached(folder: pathlib.Path) -> None:
  """Asks the system to read the files from the disk, and not from its memory, where it can."""
  if not hasattr(os, "posix_fadvise") or is_url(folder):
    return
  for path in folder.rglob("*"):
    with contextlib.suppress(OSError):  # reading it will tell
      if path.is_file():
        with open(path, "rb") as file:
          os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
