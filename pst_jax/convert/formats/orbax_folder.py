"""Weights from and to folders of Orbax checkpoints: those of a run, and weights alone.

A folder of weights is laid out as the checkpoints of a run that saved one step, and both carry the
library's metadata block in their records; see `pst_jax.checkpoints.layout`.
"""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import time

import flax.traverse_util
import jax
import numpy as np

from pst_jax.buckets import is_absent, is_url
from pst_jax.checkpoints import layout, read, write
from pst_jax.checkpoints.layout import Identity, Which
from pst_jax.convert.metadata import Metadata, Record
from pst_jax.errors import UserError
from pst_jax.files import place
from pst_jax.folders import recover_folder, replace_folder
from pst_jax.presence import is_file, is_folder, is_taken

BLOCK = "weights"
"""The metadata block in a record's `extra`."""
_COLLECTIONS = ("params/", "batch_stats/")


def read_folder(
  path: pathlib.Path, step: Which = "latest", ema: bool | None = None
) -> tuple[dict, Metadata, Record]:
  """The variables in float32, the facts and the record of a folder, as `io.Weights` has them.

  Arguments as `convert.io.read`.

  Raises:
    UserError: it is neither a run's nor one of weights; it has no such checkpoint or moving
      average; no checkpoint is good.
  """
  is_run, directory = _checkpoints_of(path)
  kinds = []

  def choose(record, _):
    """The moving average or the parameters, as the checkpoint has them."""
    names = record["leaves"]
    kind, prefix = _kind(path, record, is_run, ema)
    kinds.append(kind)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
      name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
      for name, (dtype, shape, _) in names.items()
      if name.startswith(tuple(prefix + collection for collection in _COLLECTIONS))
    }

  run_id = path / layout.RUN_ID
  run = run_id.read_text().strip() if is_run and is_file(run_id) else None
  restored = read.restore(directory, step, choose, Identity(run))
  if restored is None:
    raise UserError(f"{directory}: there is no checkpoint yet: train the run first")
  leaves = {
    name.removeprefix("ema/"): np.asarray(leaf).astype(np.float32, copy=False)
    for name, leaf in restored.state.items()
  }
  variables = flax.traverse_util.unflatten_dict(leaves, sep="/")
  try:
    block = Metadata.from_block(restored.extra.get(BLOCK))
    metadata = block or _of_config(path, restored, variables)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
  return variables, dataclasses.replace(metadata, weights=kinds[-1]), _record(restored, kinds[-1])


def _record(restored: read.Restored, kind: str) -> Record:
  """What a run measured: of the moving average, where it keeps one, and not of the parameters."""
  block, config = (restored.extra.get(name) for name in (BLOCK, "config"))
  evaluated = block.get("weights") if isinstance(block, dict) else "params"
  metrics = restored.metrics if evaluated == kind else {}
  return Record(metrics, config if isinstance(config, dict) else {})


def _checkpoints_of(path: pathlib.Path) -> tuple[bool, pathlib.Path]:
  """(Whether the folder is a run's, where its checkpoints are)."""
  if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
    return True, layout.absolute(path / "checkpoints")
  if layout.saved_steps(path):
    return False, layout.absolute(path)
  raise UserError(
    f"{path}: this folder holds no weights: give the folder of a run (with config.json), or one "
    "that `python -m pst_jax convert` wrote"
  )


def _kind(path, record, is_run, ema) -> tuple[str, str]:
  """(`ema` or `params`, what the names of the leaves begin with)."""
  if any(name.startswith("ema/") for name in record["leaves"]):
    return ("params", "") if ema is False else ("ema", "ema/")
  if is_run:
    if ema:
      raise UserError(
        f"{path}: this run keeps no moving average (ema_decay is 0): take --weights params"
      )
    return "params", ""
  block = record["extra"].get(BLOCK)
  kind = block.get("weights") if isinstance(block, dict) else "params"
  if ema is not None and ema != (kind == "ema"):
    raise UserError(f"{path}: it holds one set of weights ({kind}): take that")
  return kind, ""


def _of_config(path: pathlib.Path, restored: read.Restored, variables: dict) -> Metadata:
  """The facts in a record of the first version of this project, which had no metadata block."""
  config = restored.extra.get("config")
  if not isinstance(config, dict):
    raise UserError("these are checkpoints that do not say what network they are of")
  bias = variables.get("params", {}).get("head", {}).get("linear", {}).get("bias")
  return Metadata.of_run(
    config,
    0 if bias is None else len(bias),
    source=path.resolve().name,
    step=restored.step,
    weights="params",
    class_names=restored.extra.get("class_names"),
  )


def check_folder(path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises UserError if `write_folder` could not write there."""
  target = _target(path)
  if is_url(target):
    if not is_absent(target):
      raise UserError(
        f"{path}: there is something, and a folder in a bucket cannot be replaced in one step: "
        "delete it first, or choose another name"
      )
    return
  if not is_folder(target.parent):
    raise UserError(f"{path}: the folder {target.parent} does not exist; make it first")
  recover_folder(target)
  if not is_taken(target):
    return
  if not _is_weights_folder(target):
    raise UserError(
      f"{path}: this exists and is no folder of weights that could be replaced; choose another name"
    )
  if not force:
    raise UserError(f"{path}: this folder exists and is kept; choose another name or use --force")


def write_folder(
  path: str | os.PathLike, variables: dict, metadata: Metadata, *, force: bool = False
) -> None:
  """Writes weights as an Orbax checkpoint, whole or not at all; see `convert.io.write`."""
  check_folder(path, force=force)
  target = _target(path)
  temporary = target.with_name(f".{target.name}-{secrets.token_hex(8)}.tmp")
  if not layout.can_rename(target.parent):
    if is_taken(target):
      raise UserError(
        f"{path}: folders cannot be renamed here, so this one cannot be replaced in one step: "
        "delete it first, or choose another name"
      )
    temporary = target  # it has no step until the end
  extra = {BLOCK: metadata.to_block()}
  try:
    write.write_step(temporary, metadata.step or 0, variables, extra=extra)
    if temporary != target:
      check_folder(path, force=force)  # writing takes a while, and others write too
      replace_folder(temporary, target)
  except BaseException as error:
    # Threads of a write that failed may write into it for a moment more.
    for _ in range(20):
      if is_url(temporary):
        with contextlib.suppress(OSError):
          temporary.rmtree(missing_ok=True)
      else:
        shutil.rmtree(temporary, ignore_errors=True)
      time.sleep(0.1)
    if isinstance(error, ValueError | OSError):
      raise UserError(f"{path}: nothing was written: {read.short(error)}") from error
    raise


def _target(path: str | os.PathLike) -> pathlib.Path:
  target = place(path, "the destination", ("gs",))
  return target if is_url(target) else pathlib.Path(os.path.realpath(target))


def _is_weights_folder(path: pathlib.Path) -> bool:
  """Whether a folder holds one step of weights, as `write_folder` leaves it, and nothing else."""
  try:
    records = [layout.read_record(path, step) for step in layout.saved_steps(path)]
  except (layout.CorruptError, OSError):
    return False
  return bool(records) and all(
    BLOCK in record["extra"] and "config" not in record["extra"] and record["run"] is None
    for record in records
  )
