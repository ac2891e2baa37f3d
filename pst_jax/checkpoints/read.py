"""Reading checkpoints: the wanted leaves, verified, of the first checkpoint that is good."""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from pst_jax.checkpoints import layout, quiet
from pst_jax.checkpoints.checksum import checksums
from pst_jax.checkpoints.layout import CorruptError, Identity, Which
from pst_jax.errors import UserError
from pst_jax.presence import is_folder
from pst_jax.processes import from_first
from pst_jax.wording import listed

_log = logging.getLogger(__name__)

Leaves = dict[str, Any]
"""{"params/head/kernel": leaf}, in the order of a tree's leaves."""

Choose = Callable[[dict, str], Leaves]
"""(record, what to call the checkpoint in an error) -> the wanted leaves as `jax.ShapeDtypeStruct`
with shardings."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """What was read of a checkpoint.

  Attributes:
    state: the tree of arrays, or {name: array} where some leaves alone were read.
    extra: what was saved with it.
    metrics: of the evaluation at that step.
    rejected: {step: reason} of the checkpoints that were tried before this one.
  """

  state: PyTree
  step: int
  extra: dict
  metrics: dict[str, float]
  rejected: dict[int, str] = dataclasses.field(default_factory=dict)


def restore(
  directory: pathlib.Path, step: Which, choose: Choose, identity: Identity | None = None
) -> Restored | None:
  """Reads and verifies the first good one of the checkpoints that stand for `step`.

  A checkpoint that is corrupt, or not of this run, gives a warning, and the next one is tried: the
  one before it, or the next best. Nothing is written or moved.

  Args:
    step: its number, "latest", or "best": the one with the highest `best`, or else the latest.
    identity: the run that the checkpoints must be of; None: any.

  Returns:
    None when there is no checkpoint at all.

  Raises:
    UserError: the step does not exist; no checkpoint that was tried is good; one of them cannot be
      read (permission, memory, the disk); or what `choose` raises.
  """
  quiet.install()
  steps, tried = None, {}

  def rejected():
    # Another run may save and delete meanwhile: what is gone was not corrupt.
    there = from_first([step for step in tried if is_folder(directory / str(step))])
    return {step: tried[step] for step in there}

  while steps != (steps := from_first(layout.steps_to_try(directory, step))):
    for candidate in steps:
      if candidate in tried:
        continue
      try:
        restored = read_checkpoint(directory, candidate, choose, identity or Identity())
      except CorruptError as error:
        tried[candidate] = str(error)
        continue
      if passed := rejected():
        text = "Passed over in %s: %s; step %d is used instead."
        _log.warning(text, directory, reasons(passed), candidate)
      return dataclasses.replace(restored, rejected=passed)
  if passed := rejected():
    raise UserError(
      f"No checkpoint that was tried in {directory} can be used: {reasons(passed)}; "
      "restore the folder from a copy, or start again with another run_dir."
    )
  return None


def reasons(rejected: dict[int, str]) -> str:
  return ", ".join(f"step {step} ({reason})" for step, reason in rejected.items())


def read_checkpoint(
  directory: pathlib.Path, step: int, choose: Choose, identity: Identity
) -> Restored:
  """Reads and verifies one checkpoint; every process calls it alike.

  Returns:
    The state as {name: array}.

  Raises:
    CorruptError: in every process, if one of them found that it is not what was saved.
    UserError: in every process, if one of them could not read it.
  """
  what = f"The checkpoint of step {step} in {directory}"
  with _agreed(what):
    record = layout.read_record(directory, step)
    identity.require(record)
  wanted = choose(record, what)
  tree = flax.traverse_util.unflatten_dict(wanted, sep="/")
  # The handler alone, without the manager: its barrier would wait for a process that failed.
  with _agreed(what), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    nested = handler.restore(
      directory / str(step) / "state",
      args=ocp.args.PyTreeRestore(
        tree,
        restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        partial_restore=True,
      ),
    )
    leaves = flax.traverse_util.flatten_dict(nested, sep="/")
  ordered = {name: leaves[name] for name in wanted}
  # What every process reads for itself, one alone may have read wrong.
  with _agreed(what):
    found = zip(wanted, checksums(list(ordered.values())), strict=True)
    wrong = [name for name, checksum in found if checksum != record["leaves"][name][2]]
    if wrong:
      raise CorruptError(f"changed content of {listed(wrong)}")
  return Restored(ordered, step, record["extra"], record["metrics"])


_GOOD, _CORRUPT, _UNREADABLE = range(3)


@contextlib.contextmanager
def _agreed(what: str):
  """Turns an error of any process into the same kind of error in every process."""
  failure = None
  try:
    yield
  except Exception as error:
    quiet.after_failure()
    failure = error
  verdict = _GOOD if failure is None else _UNREADABLE if _is_read_error(failure) else _CORRUPT
  worst = verdict
  if jax.process_count() > 1:
    worst = int(multihost_utils.process_allgather(np.int32(verdict)).max())
  if worst == _UNREADABLE:
    reason = short(failure) if verdict == _UNREADABLE else "by another process"
    raise UserError(layout.unreadable(what, reason))
  if worst == _CORRUPT:
    raise CorruptError(short(failure) if failure else "it is corrupt to another process")


# What a path that is gone, or is of another kind, says: the content is not what was saved.
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


# What TensorStore says of a store that does not answer or refuses, and JAX of memory.
_STORE_FAILS = (
  r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|ABORTED"
  r"|RESOURCE_EXHAUSTED)\b"
)


def _is_read_error(error: BaseException | None) -> bool:
  """Whether the system failed to read, which says nothing of what is on the disk."""
  if error is None or isinstance(error, CorruptError):
    return False
  if isinstance(error, MemoryError) or re.search(_STORE_FAILS, str(error)):
    return True
  number = _system_code(error)
  return number is not None and number not in _MISSING


def _system_code(error: BaseException | None) -> int | None:
  """The operating system's error number, also of what an error was raised from."""
  if error is None:
    return None
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno
  buried = re.search(r"os_error_code='(\d+)'", str(error))  # in a long text of TensorStore
  return int(buried[1]) if buried else _system_code(error.__cause__)


def short(error: BaseException) -> str:
  """The reason, in a few words where it is a library's."""
  if isinstance(error, CorruptError | UserError):
    return str(error)  # with long paths too: its end says what to do
  code = _system_code(error)
  if code is not None:
    said = getattr(error, "strerror", None)
    return said or os.strerror(code)
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0].split(". See")[0][:150]


def check_leaves(wanted: Leaves, saved: dict[str, list], what: str) -> None:
  """Raises UserError if a checkpoint's leaves are not exactly the wanted ones."""
  differing = [name for name in wanted if name in saved and kind(wanted[name]) != saved[name][:2]]
  problems = {
    "it lacks": [name for name in wanted if name not in saved],
    "it has in excess": [name for name in saved if name not in wanted],
    "other shapes or types": [
      "{} {}{} instead of {}{}".format(name, *saved[name][:2], *kind(wanted[name]))
      for name in differing
    ],
  }
  text = "; ".join(f"{problem}: {listed(names)}" for problem, names in problems.items() if names)
  if text:
    raise UserError(
      f"{what} does not fit this config ({text}); use the config that made it, or another run_dir."
    )


def flatten(tree: PyTree) -> Leaves:
  """The leaves of any tree by name."""
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def kind(leaf) -> list:
  """[dtype, shape], as a record has it."""
  return [str(leaf.dtype), list(leaf.shape)]
