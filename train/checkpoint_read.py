"""Reading one checkpoint: its record, the leaves that are wanted, and whether they are intact."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from train import checkpoint_files as files
from train.config import ConfigError
from train.digest import digests

Leaves = dict[str, Any]
"""{"params/head/kernel": leaf}, in the order of a tree's leaves."""


@dataclasses.dataclass(frozen=True)
class Restored:
  state: PyTree
  step: int
  extra: dict
  metrics: dict[str, float]


class DamagedError(Exception):
  """The checkpoint is damaged; the text says where."""


def read_checkpoint(
  directory: pathlib.Path, step: int, choose: Callable[[dict[str, list], str], Leaves]
) -> Restored:
  """Reads and verifies a checkpoint; every process calls it alike.

  Args:
    directory: of the checkpoints.
    step: the one to read.
    choose: ({name: [dtype, shape, digest]} of the leaves that are there, what to call them in an
      error) -> the wanted leaves as `jax.ShapeDtypeStruct` with shardings.

  Returns:
    The state as {name: array}.

  Raises:
    DamagedError: in every process, if one of them could not read it or found it changed.
  """
  with _agreed():
    record = files.read_record(directory, step)
  wanted = choose(record["leaves"], f"The checkpoint of step {step} in {directory}")
  tree = flax.traverse_util.unflatten_dict(wanted, sep="/")
  # The handler alone, without the manager: its barrier would wait for a process that failed.
  with _agreed(), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
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
  found = zip(wanted, digests(list(ordered.values())), strict=True)
  wrong = [name for name, digest in found if digest != record["leaves"][name][2]]
  if wrong:
    raise DamagedError(f"changed content of {listed(wrong)}")
  return Restored(ordered, step, record["extra"], record["metrics"])


@contextlib.contextmanager
def _agreed():
  """Turns an error of any process into `DamagedError` in every process."""
  failure = None
  try:
    yield
  except Exception as error:
    failure = error
  good = failure is None
  if jax.process_count() > 1:
    good = bool(multihost_utils.process_allgather(np.int32(good)).all())
  if not good:
    raise DamagedError(files.short(failure) if failure else "another process cannot read it")


def check_leaves(wanted: Leaves, saved: dict[str, list], what: str) -> None:
  """Raises ConfigError if a checkpoint's leaves are not exactly the wanted ones."""
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
    raise ConfigError(
      f"{what} does not fit this config ({text}); use the config that made it, or another run_dir."
    )


def flatten(tree: PyTree) -> Leaves:
  """The leaves of any tree by name."""
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def kind(leaf) -> list:
  """[dtype, shape], as a record has it."""
  return [str(leaf.dtype), list(leaf.shape)]


@contextlib.contextmanager
def garbage_unreported():
  """Orbax leaves failed reads to the garbage collector: nothing of them is to be printed."""
  hook, logger = sys.unraisablehook, logging.getLogger("asyncio")
  sys.unraisablehook = lambda _: None
  logger.addFilter(_drop)
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
      yield
  finally:
    sys.unraisablehook = hook
    logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
  return False


def listed(items, most: int = 5) -> str:
  """The first few of them, and how many more there are."""
  items = list(items)
  return ", ".join(items[:most]) + (f" and {len(items) - most} more" * (len(items) > most))
