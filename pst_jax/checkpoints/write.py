"""Writing checkpoints: what a step is saved as, and a folder of one step alone."""

import asyncio
import os
import pathlib
from collections.abc import Iterable, Mapping

import flax.traverse_util
import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint._src.handlers.composite_checkpoint_handler import CompositeOptions
from orbax.checkpoint._src.path.atomicity import (
  AtomicRenameTemporaryPath,
  CommitFileTemporaryPath,
  ValidationError,
)

from pst_jax.buckets import is_url
from pst_jax.checkpoints import layout, quiet
from pst_jax.checkpoints.checksum import checksums
from pst_jax.checkpoints.read import flatten, kind
from pst_jax.files import require_utf8, sync_folder
from pst_jax.presence import is_folder
from pst_jax.processes import from_first

ITEMS = ("state", "record")


class DurablePath(AtomicRenameTemporaryPath):
  """A step's folder gets its name when all of it is on the disk, also after a power failure.

  Orbax waits for the arrays alone, and for the name not at all.
  """

  async def finalize(self) -> None:
    temporary, final = pathlib.Path(self.get()), pathlib.Path(self.get_final())
    await asyncio.to_thread(_sync, [*temporary.rglob("*"), temporary])
    await super().finalize()
    # Orbax adds two small files at the very end, of which nothing here is read.
    await asyncio.to_thread(_sync, [*filter(os.path.isfile, final.iterdir()), final, final.parent])


class CommittedPath(CommitFileTemporaryPath):
  """A folder is written under its own name, and counts when its commit file is on the disk.

  For buckets, and wherever folders cannot be renamed. A file beside the folder says from before its
  first byte that it is not finished: folders of old runs, which have no commit file, are told from
  those that a killed process left.
  """

  async def create(self):
    await asyncio.to_thread(self._mark)
    return await super().create()

  def _mark(self) -> None:
    marker = layout.marker(layout.absolute(self.get_final()))
    marker.write_text("unfinished\n")
    if not is_url(marker):
      _sync([marker, marker.parent])

  async def finalize(self) -> None:
    final = layout.absolute(self.get_final())
    if not is_url(final):  # objects are safe when they are there
      await asyncio.to_thread(_sync, [*final.rglob("*"), final])
    await super().finalize()
    if not is_url(final):
      await asyncio.to_thread(_sync, [*filter(os.path.isfile, final.iterdir()), final])
    await asyncio.to_thread(layout.marker(final).unlink)

  @classmethod
  async def validate(cls, temporary_path) -> None:
    """Raises ValidationError for a folder that is finished."""
    if not _is_unfinished(temporary_path):
      raise ValidationError(f"{temporary_path} is finished")

  @classmethod
  async def validate_final(cls, final_path) -> None:
    """Raises ValidationError for a folder that is not finished."""
    if _is_unfinished(final_path) or not is_folder(layout.absolute(final_path)):
      raise ValidationError(f"{final_path} is not finished")


def _is_unfinished(path: os.PathLike) -> bool:
  return layout.is_unfinished(layout.absolute(path))


def path_class(directory: pathlib.Path) -> type:
  """How the steps in an existing folder get to count; every process of a run calls it alike."""
  # One process tries for all.
  renames = jax.process_index() != 0 or layout.can_rename(directory)
  return DurablePath if from_first(renames) else CommittedPath


def _sync(paths: Iterable[os.PathLike]) -> None:
  for path in paths:
    sync_folder(path)  # files too


def step_args(
  step: int,
  state: PyTree,
  *,
  extra: Mapping,
  metrics: Mapping[str, float] | None = None,
  best: float | None = None,
  run: str | None = None,
) -> ocp.args.Composite:
  """What Orbax saves for a step: the state, and its record with a checksum of every leaf.

  Args:
    state: any tree of arrays, sharded or not.
    extra: anything that JSON can hold.
    best: ranks the checkpoints of a run, the higher the better; None: not measured.
  """
  leaves = flatten(state)
  sums = zip(leaves.items(), checksums(list(leaves.values())), strict=True)
  record = {
    "step": step,
    "run": run,
    "best": None if best is None else float(best),
    "extra": extra,
    "metrics": {name: float(value) for name, value in (metrics or {}).items()},
    "leaves": {name: [*kind(leaf), checksum] for (name, leaf), checksum in sums},
  }
  return ocp.args.Composite(
    state=ocp.args.StandardSave(flax.traverse_util.unflatten_dict(leaves, sep="/")),
    record=ocp.args.JsonSave(layout.sealed(record)),
  )


def write_step(directory: str | os.PathLike, step: int, state: PyTree, *, extra: Mapping) -> None:
  """Writes a folder of checkpoints that has one step; returns when it is on the disk."""
  require_utf8(directory, "the folder of weights")
  quiet.install()
  directory = layout.absolute(directory)
  layout.check_directory(directory)
  # Committed to a device, as what is read back is: checksums compile for each kind of array.
  state = jax.device_put(state, jax.local_devices()[0])
  ends = path_class(directory)
  options = CompositeOptions(temporary_path_class=ends)
  handler = ocp.CompositeCheckpointHandler(*ITEMS, composite_options=options)
  try:
    with ocp.Checkpointer(handler, temporary_path_class=ends) as checkpointer:
      checkpointer.save(directory / str(step), step_args(step, state, extra=extra))
  except Exception:
    quiet.after_failure()
    raise
