"""Checkpoints of a run: asynchronous, sharded, verified when they are read.

`Checkpoints` wraps Orbax's `CheckpointManager`. Orbax writes each step into a temporary folder and
renames it when it is complete, or, where folders cannot be renamed, adds a commit file at the end,
so a killed process leaves no half checkpoint behind; it does not notice flipped bits and does not
fall back. `pst_jax.checkpoints` adds both, and says what such a
folder holds.
"""

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from pst_jax.buckets import is_url, told
from pst_jax.checkpoints import layout, quiet, read, verify, write
from pst_jax.checkpoints.layout import CorruptError, Identity, Which, check_directory
from pst_jax.checkpoints.read import Restored
from pst_jax.errors import UserError

_log = logging.getLogger(__name__)


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of one run; a context manager that finishes writing when it is left.

  Every process of a run makes one and calls the same methods in the same order.

  Args:
    directory: holds one folder per step; made when it does not exist.
    keep_latest: how many of the newest checkpoints stay; the best one stays as well.
    identity: the run; checkpoints of another one are passed over. None: any is taken.
    read_back: after each save wait until it is on the disk, read it and compare.

  Raises:
    UserError: the directory cannot be written.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep_latest: int = 2,
    identity: Identity | None = None,
    read_back: bool = False,
  ):
    self.directory = layout.absolute(directory)
    self._keep_latest = keep_latest
    self._identity = identity or Identity()
    self._read_back = read_back
    quiet.install()
    if jax.process_index() == 0:
      layout.remove_unfinished(self.directory)
    multihost_utils.sync_global_devices("unfinished checkpoints removed")
    check_directory(self.directory)
    steps = layout.saved_steps(self.directory)
    self._kept = _Kept({step: layout.read_best(self.directory, step) for step in steps})
    policies = [preservation_policy.LatestN(keep_latest), self._kept]
    options = ocp.CheckpointManagerOptions(
      preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
      temporary_path_class=write.path_class(self.directory),
    )
    # Of a bucket Orbax asks more than of its objects: the account must be allowed to look at it.
    in_bucket = is_url(self.directory)
    with told(self.directory, "opened") if in_bucket else contextlib.nullcontext():
      self._manager = ocp.CheckpointManager(self.directory, item_names=write.ITEMS, options=options)

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.close()
    except UserError as second:
      if error is None:
        raise
      # The error that ends the run must reach the user; this one came after it.
      if str(second) != str(error):
        _log.warning("%s", second)

  @property
  def latest_step(self) -> int | None:
    """The newest step on disk or being written; None when there is none."""
    return max(self._manager.all_steps(), default=None)

  def require_space(self, abstract_state: PyTree, saves: int) -> None:
    """Raises UserError when the disk has no space for the checkpoints that this run will keep.

    It saves no more than `saves`, and one where it is stopped.
    """
    one = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(abstract_state))
    # The latest ones, the best one and the one being written, less those that are there already.
    most = min(self._keep_latest + 2, saves + 1)
    missing = max(1, most - len(layout.saved_steps(self.directory)))
    check_directory(self.directory, one * missing)

  def save(
    self,
    step: int,
    state: PyTree,
    *,
    metrics: Mapping[str, float] | None = None,
    best: float | None = None,
    extra: Mapping,
  ) -> None:
    """Starts to write a checkpoint; returns as soon as the state may be donated or changed.

    Args:
      step: the number of steps that led to this state; a step that has a checkpoint is an error.
      state: any tree of arrays, sharded or not.
      metrics: of the evaluation at this step.
      best: the checkpoint with the highest one stays; None: not measured.
      extra: anything that JSON can hold: the config, versions of libraries.

    Raises:
      UserError: this or the save before it failed, e.g. because the disk is full; what was read
        back is not what was saved.
    """
    leaves = read.flatten(state) if self._read_back else {}
    shardings = {name: leaf.sharding for name, leaf in leaves.items()}
    args = write.step_args(
      step, state, extra=extra, metrics=metrics, best=best, run=self._identity.run
    )
    self._kept.best[step] = layout.finite(best)
    with self._explained():
      self._manager.save(step, args=args, force=True)
    if self._read_back:
      self.wait()
      self._prove(step, shardings)

  def restore(self, abstract_state: PyTree, step: Which = "latest") -> Restored | None:
    """As the function `restore`; what is passed over is moved to `damaged/`.

    So its step can be saved again. When no checkpoint is good, nothing is moved.
    """
    self.wait()
    restored = restore(self.directory, abstract_state, step, self._identity)
    if restored and self._read_back:
      self._kept.proven = restored.step
    if restored and restored.rejected:
      self._set_aside(restored.rejected)
    return restored

  def wait(self) -> None:
    """Blocks until the last save is on disk; raises UserError if it failed."""
    with self._explained():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the last save and ends the writing threads; raises UserError if it failed."""
    # Closing waits as well, and may raise what a thread of the last save ended with.
    with self._explained(), contextlib.closing(self._manager):
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _explained(self):
    try:
      yield
    except Exception as error:
      quiet.after_failure()
      try:
        kept = _last_good(max(layout.saved_steps(self.directory), default=None))
      except OSError:  # a store that does not answer
        kept = "those before it are as they were"
      remedy = "mend that" if is_url(self.directory) else "free some space or check the disk"
      raise UserError(
        f"Saving a checkpoint in {self.directory} failed ({read.short(error)}); {kept}; {remedy}, "
        "then give the same command again to go on."
      ) from error

  def _prove(self, step: int, shardings: Mapping[str, jax.sharding.Sharding]) -> None:
    try:
      verify.read_whole(self.directory, step, shardings.get, self._identity)
    except CorruptError as error:
      raise UserError(
        f"The checkpoint of step {step} in {self.directory} was read back, and is not what was "
        f"saved ({error}); {_last_good(self._kept.proven)}; check the disk, then give the same "
        "command again to go on."
      ) from None
    self._kept.proven = step

  def _set_aside(self, steps) -> None:
    if jax.process_index() == 0:
      for step in steps:
        layout.set_aside(self.directory, step)
    multihost_utils.sync_global_devices("corrupt checkpoints set aside")
    for step in steps:
      self._kept.best.pop(step, None)
    self._manager.reload()


def restore(
  directory: str | os.PathLike,
  abstract_state: PyTree,
  step: Which = "latest",
  identity: Identity | None = None,
) -> Restored | None:
  """As `read.restore`, onto the devices that the abstract state names, however many saved it.

  Raises:
    UserError: as `read.restore`; the leaves are not those of the abstract state.
  """
  wanted = read.flatten(abstract_state)

  def choose(record, what):
    read.check_leaves(wanted, record["leaves"], what)
    return wanted

  restored = read.restore(layout.absolute(directory), step, choose, identity)
  if restored is None:
    return None
  state = jax.tree.unflatten(jax.tree.structure(abstract_state), list(restored.state.values()))
  return dataclasses.replace(restored, state=state)


def _last_good(step: int | None) -> str:
  return "there is none before it" if step is None else f"the last good one is step {step}"


@dataclasses.dataclass
class _Kept(preservation_policy.PreservationPolicy):
  """Preserves the step with the highest `best`, the latest of equal ones, and what proved good.

  Orbax's BestN reads the metrics from its own files and lets a corrupt one stop the start of a run.
  """

  best: dict[int, float | None]
  proven: int | None = None  # the step that was read last and found good

  def should_preserve(self, checkpoints, *, context):
    del context
    rated = [c.step for c in checkpoints if self.best.get(c.step) is not None]
    best = max(rated, key=lambda step: (self.best[step], step), default=None)
    return [c.step in (best, self.proven) for c in checkpoints]
