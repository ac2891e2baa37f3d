"""Checks that all processes of a run agree; if they did not, they would wait for each other."""

import hashlib

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pst_jax.errors import UserError
from pst_jax.presence import is_there
from pst_jax.processes import from_first
from train.config import from_json
from train.config_values import difference, to_json
from train.data import Dataset
from train.run.folder import RunFolder
from train.schema import PROCESSES_MAY_DIFFER, Config


def require_same_run(config: Config, dataset: Dataset) -> None:
  """Compares config and data with those of process 0; all processes call it, before all else.

  A field that changes no result may still change what the processes do together.

  Raises:
    UserError: this process was given another config, or other data.
  """
  if jax.process_count() == 1:
    return
  mine = {"config": to_json(config), "images": _counts(dataset)}
  theirs, who = from_first(mine), f"process {jax.process_index()}"
  if changed := difference(from_json(theirs["config"]), config, PROCESSES_MAY_DIFFER):
    raise UserError(
      f"{who} was given another config than process 0 ({'; '.join(changed)}): give all processes "
      "the same command but for --process-id"
    )
  if theirs["images"] != mine["images"]:
    raise UserError(
      f"{who} finds {mine['images']} training images, evaluation images and classes in "
      f"{config.data.dataset}, but process 0 finds {theirs['images']}: give all machines the same "
      "data"
    )


def require_same_weights(values: dict[str, np.ndarray], source: str) -> None:
  """Compares weights, which each process has read itself, with those of process 0; all call it.

  Raises:
    UserError: this process has read others.
  """
  if jax.process_count() == 1:
    return
  digest = hashlib.sha256()
  for name, value in sorted(values.items()):
    digest.update(f"{name} {value.dtype} {value.shape}".encode())
    digest.update(np.ascontiguousarray(value).data)
  if from_first(digest.hexdigest()) != digest.hexdigest():
    raise UserError(
      f"process {jax.process_index()} finds other weights in {source} than process 0: give all "
      "machines the same file"
    )


def require_same_folder(folder: RunFolder) -> None:
  """Looks for the lock of process 0 in the run folder; all processes call it when that is held.

  Raises:
    UserError: this process sees another folder.
  """
  if jax.process_count() == 1:
    return
  # The others look at the file when process 0 has written it, which is after the broadcast.
  theirs = from_first(_text(folder) if jax.process_index() == 0 else "")
  if theirs != _text(folder):
    raise UserError(
      f"run_dir {folder.path} of process {jax.process_index()} is not the folder of process 0: "
      "choose a --run-dir on a file system that all machines share"
    )


def barrier(mesh: Mesh) -> None:
  """Makes the devices of all processes exchange something along every axis of the mesh.

  To be called before anything takes long to compile.

  Gloo, which carries collectives between CPUs, waits only 30 seconds for a process that is late to
  the first one of a group of devices, and as long as `xla_cpu_collective_timeout_seconds` later.
  """
  if jax.process_count() == 1:
    return
  placed = [NamedSharding(mesh, spec) for spec in (P("data", "fsdp"), P(), P("fsdp"), P("data"))]
  ones = jax.make_array_from_callback(
    mesh.devices.shape, placed[0], lambda index: np.ones(mesh.devices.shape, np.float32)[index]
  )
  sums = jax.jit(lambda x: (x.sum(), x.sum(0), x.sum(1)), out_shardings=tuple(placed[1:]))
  jax.block_until_ready(sums(ones))


def _counts(dataset: Dataset) -> list[int]:
  num_train = 0 if dataset.train is None else dataset.num_train
  return [num_train, dataset.num_eval, dataset.num_classes]


def _text(folder: RunFolder) -> str:
  return folder.lock.read_text() if is_there(folder.lock) else ""
