"""Checkpoints of a run: asynchronous, sharded, verified when they are read.

`Checkpoints` wraps Orbax's `CheckpointManager`. Orbax writes each step into a temporary folder and
renames it when it is complete, so a killed process leaves no half checkpoint behind; it does not
notice flipped bits and does not fall back. Both are added here: every step carries a record (JSON)
with a digest of each leaf, and a checkpoint that cannot be read or differs from its record is
passed over for the one before. `checkpoint_files` shows the layout of the folder.
"""

import contextlib
import dataclasses
import gc
import logging
import math
import os
from collections.abc import Callable, Iterable

import flax.traverse_util
import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from train import checkpoint_files as files
from train.checkpoint_files import Which, check_directory
from train.checkpoint_read import (
  DamagedError,
  Restored,
  check_leaves,
  flatten,
  garbage_unreported,
  kind,
  read_checkpoint,
)
from train.config import ConfigError
from train.digest import digests

__all__ = ["Checkpoints", "Restored", "check_directory"]

_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run; a context manager that finishes writing when it is left.

  Every process of a run makes one and calls the same methods in the same order.

  Args:
    directory: holds one folder per step; made when it does not exist.
    keep_latest: how many of the newest checkpoints stay; the one with the highest metric `top1`
      stays as well.
    read_only: look at another process's run: nothing is written, moved or deleted.

  Raises:
    ConfigError: the directory cannot be written.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep_latest: int = 2,
    read_only: bool = False,
  ):
    self.directory = files.absolute(directory)
    self._keep_latest = keep_latest
    self._manager = None
    _hush_orbax()
    if read_only:
      return
    if jax.process_index() == 0:
      files.remove_unfinished(self.directory)
    multihost_utils.sync_global_devices("unfinished checkpoints removed")
    check_directory(self.directory)
    steps = files.saved_steps(self.directory)
    self._top1 = {step: files.read_top1(self.directory, step) for step in steps}
    self._manager = ocp.CheckpointManager(
      self.directory,
      item_names=("state", "record"),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(
          [preservation_policy.LatestN(keep_latest), _Best(self._top1)]
        ),
      ),
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.close()
    except ConfigError as second:
      if error is None:
        raise
      # The error that ends the run must reach the user; this one came after it.
      if str(second) != str(error):
        _log.warning("%s", second)

  @property
  def latest_step(self) -> int | None:
    """The newest step on disk or being written; None when there is none."""
    steps = self._manager.all_steps() if self._manager else files.saved_steps(self.directory)
    return max(steps, default=None)

  def require_space(self, abstract_state: PyTree) -> None:
    """Raises ConfigError when the disk has no room for the checkpoints that this run will keep."""
    one = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(abstract_state))
    # The latest ones, the best one and the one being written, less those that are there already.
    missing = max(1, self._keep_latest + 2 - len(files.saved_steps(self.directory)))
    check_directory(self.directory, one * missing)

  def save(
    self, step: int, state: PyTree, *, metrics: dict[str, float] | None, extra: dict
  ) -> None:
    """Starts to write a checkpoint; returns as soon as the state may be donated or changed.

    Args:
      step: the number of steps that led to this state; a step that has a checkpoint is an error.
      state: any tree of arrays, sharded or not.
      metrics: `top1` decides which checkpoint is the best one.
      extra: anything that JSON can hold: the config, versions of libraries.

    Raises:
      ConfigError: this or the save before it failed, e.g. because the disk is full.
    """
    leaves = flatten(state)
    record = {
      "extra": extra,
      "metrics": {name: float(value) for name, value in (metrics or {}).items()},
      "leaves": {
        name: [*kind(leaf), digest]
        for (name, leaf), digest in zip(leaves.items(), digests(list(leaves.values())), strict=True)
      },
    }
    self._top1[step] = files.finite(record["metrics"].get("top1"))
    with self._explained():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(flax.traverse_util.unflatten_dict(leaves, sep="/")),
          record=ocp.args.JsonSave(files.sealed(record)),
        ),
        force=True,
      )

  def restore(self, abstract_state: PyTree, step: Which = "latest") -> Restored | None:
    """Reads a checkpoint onto the devices that the abstract state names, and verifies it.

    A damaged checkpoint gives a warning and the next one is tried: the one before it, or the next
    best one. It is moved to `damaged/`, so that its step can be saved again. When no checkpoint is
    good, nothing is moved.

    Args:
      abstract_state: tree of `jax.ShapeDtypeStruct` with shardings; the number of devices and
        processes may differ from the ones that saved.
      step: "best" is the highest `top1`; without any `top1` it is the latest.

    Returns:
      None when there is no checkpoint at all.

    Raises:
      ConfigError: every checkpoint is damaged, the step asked for does not exist or is damaged, or
        its leaves are not those of the abstract state.
    """
    wanted = flatten(abstract_state)

    def choose(saved, what):
      check_leaves(wanted, saved, what)
      return wanted

    restored = self._restore_first_good(step, choose)
    if restored is None:
      return None
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), list(restored.state.values()))
    return dataclasses.replace(restored, state=state)

  def restore_part(
    self, choose: Callable[[Iterable[str]], Iterable[str]], step: Which = "latest"
  ) -> Restored | None:
    """As `restore`, but reads some leaves alone, onto one device; the state is {name: array}.

    Args:
      choose: the names of all leaves, such as "params/head/linear/bias" -> those to read.
      step: see `restore`.
    """
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(saved, _):
      return {
        name: jax.ShapeDtypeStruct(saved[name][1], saved[name][0], sharding=place)
        for name in choose(saved)
      }

    return self._restore_first_good(step, abstract)

  def _restore_first_good(self, step, choose):
    if self._manager:
      self.wait()
    damaged = {}
    for candidate in files.steps_to_try(self.directory, step):
      with garbage_unreported():
        try:
          restored = read_checkpoint(self.directory, candidate, choose)
        except DamagedError as error:
          damaged[candidate] = str(error)
        if candidate in damaged:
          gc.collect()
          continue
      if damaged:
        _log.warning(
          "Damaged checkpoint in %s: %s; step %d is used instead.",
          self.directory,
          _reasons(damaged),
          candidate,
        )
        if self._manager:
          self._set_aside(damaged)
      return restored
    if damaged:
      raise ConfigError(
        f"Every checkpoint tried in {self.directory} is damaged: {_reasons(damaged)}; "
        "restore the folder from a copy, or start again with another run_dir."
      )
    return None

  def wait(self) -> None:
    """Blocks until the last save is on disk; raises ConfigError if it failed."""
    with self._explained():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the last save and ends the writing threads; raises ConfigError if it failed."""
    if self._manager:
      # Closing waits as well, and may raise what a thread of the last save ended with.
      with self._explained():
        try:
          self._manager.wait_until_finished()
        finally:
          self._manager.close()

  @contextlib.contextmanager
  def _explained(self):
    try:
      yield
    except Exception as error:
      last = max(files.saved_steps(self.directory), default=None)
      raise ConfigError(
        f"Saving a checkpoint in {self.directory} failed ({files.short(error)}); "
        + (f"the last good one is step {last}" if last is not None else "there is none before it")
        + "; free some space or mend the disk, then give the same command again to go on."
      ) from error

  def _set_aside(self, steps) -> None:
    if jax.process_index() == 0:
      aside = self.directory / "damaged"
      aside.mkdir(exist_ok=True)
      for step in steps:
        target, again = aside / str(step), 0
        while target.exists():
          again += 1
          target = aside / f"{step}.{again}"
        (self.directory / str(step)).rename(target)
    multihost_utils.sync_global_devices("damaged checkpoints set aside")
    for step in steps:
      self._top1.pop(step, None)
    self._manager.reload()


def _hush_orbax() -> None:
  """Drops what Orbax logs at errors, tracebacks of each thread: the error is raised as well."""
  logger = logging.getLogger("absl")
  if _from_others not in logger.filters:
    logger.addFilter(_from_others)


def _from_others(record: logging.LogRecord) -> bool:
  inside = f"{os.sep}orbax{os.sep}" in record.pathname
  return not inside or logging.getLogger("absl").isEnabledFor(logging.INFO)


@dataclasses.dataclass(frozen=True)
class _Best(preservation_policy.PreservationPolicy):
  """Preserves the step with the highest top-1.

  Orbax's BestN reads the metrics from its own files and lets a damaged one stop the start of a run.
  """

  top1: dict[int, float | None]

  def should_preserve(self, checkpoints, *, context):
    del context
    rated = [c.step for c in checkpoints if self.top1.get(c.step) is not None]
    best = max(rated, key=lambda step: (self.top1[step], step), default=None)
    return [c.step == best for c in checkpoints]


def _reasons(damaged: dict[int, str]) -> str:
  return ", ".join(f"step {step} ({reason})" for step, reason in damaged.items())
