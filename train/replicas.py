"""Do devices that should hold the same still do? A device that computes wrong is named."""

import collections
from collections.abc import Iterable

import jax
import numpy as np
from jax.experimental import multihost_utils

from pst_jax.checkpoints.checksum import replica_checksums
from pst_jax.checkpoints.read import flatten, listed
from pst_jax.errors import UserError
from train.run.checkpoints import Checkpoints
from train.state import TrainState


class ReplicaCheck:
  """Compares checksums of the state over its replicas, now and then.

  Parameters, statistics and optimizer state are computed alike on all devices that hold the same
  part of them. Where they differ, a device has computed or kept something wrong, and from then on
  every gradient is. `every` counts the steps between two comparisons, and what is saved is compared
  too, so that a checkpoint can be trusted; 0: there are none.
  """

  def __init__(self, every: int, first_step: int, checkpoints: Checkpoints):
    self._every, self._last, self._checkpoints = every, first_step, checkpoints

  def check(self, step: int, state: TrainState, is_saved: bool = False) -> None:
    """Compares, if it is due after this step; every process calls it alike.

    Raises:
      UserError: replicas differ.
    """
    if not self._every or (step % self._every and not is_saved):
      return
    found = differences(state)
    if found:
      raise UserError(self._sentence(step, found))
    self._last = step

  def _sentence(self, step: int, found: dict[str, list[jax.Device]]) -> str:
    devices = {device.id: device for wrong in found.values() for device in wrong}
    names = [f"{devices[n]} of process {devices[n].process_index}" for n in sorted(devices)]
    saved = self._checkpoints.latest_step
    good = f"they were equal after step {self._last}" if self._last else "they were never compared"
    return (
      f"at step {step} replicas of the state differ on {' and '.join(names)} ({listed(found)}), so "
      f"that a device has computed or kept wrong values; {good}"
      + (f", and the newest checkpoint is step {saved}" if saved else "")
      + ": take the device out, delete checkpoints that are newer than the last comparison, and "
      "give the same command again"
    )


def differences(state: TrainState) -> dict[str, list[jax.Device]]:
  """{"params/head/kernel": the devices whose replica is not as that of most others}.

  Where there are as many of one kind as of another, all are named.
  """
  leaves = {n: leaf for n, leaf in flatten(state).items() if len(leaf.sharding.device_set) > 1}
  if not leaves:
    return {}
  found = {
    name: _deviating(leaf, sums)
    for (name, leaf), sums in zip(leaves.items(), _sums(leaves.values()), strict=True)
  }
  return {name: wrong for name, wrong in found.items() if wrong}


def _sums(leaves: Iterable[jax.Array]) -> list[dict[jax.Device, tuple[int, int]]]:
  """For each leaf the checksum of what each device holds, those of other processes included."""
  devices = jax.devices()
  parts = [replica_checksums(leaf).addressable_shards for leaf in leaves]
  mine = np.zeros((len(parts), len(devices), 2), np.uint32)
  for row, shards in zip(mine, parts, strict=True):
    for shard in shards:
      row[devices.index(shard.device)] = np.asarray(shard.data)[0]
  # Each device is a row of one process alone.
  table = multihost_utils.process_allgather(mine, tiled=False).reshape(-1, *mine.shape).sum(0)
  return [dict(zip(devices, map(tuple, row.tolist()), strict=True)) for row in table]


def _deviating(leaf: jax.Array, sums: dict[jax.Device, tuple[int, int]]) -> list[jax.Device]:
  parts = collections.defaultdict(dict)
  for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
    parts[str(index)][device] = sums[device]
  return [device for held in parts.values() for device in _minority(held)]


def _minority(held: dict[jax.Device, tuple]) -> list[jax.Device]:
  """The devices whose value is not that of more than half of them."""
  value, count = collections.Counter(held.values()).most_common(1)[0]
  if count == len(held):
    return []
  return [device for device, each in held.items() if count * 2 <= len(held) or each != value]
