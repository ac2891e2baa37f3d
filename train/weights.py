"""Weights from and to folders: a run's checkpoints, and weights alone as one Orbax checkpoint.

A folder of weights looks like the checkpoints of a run that saved one step, with the library's
metadata block in its record: DEST/<step>/state and DEST/<step>/record.
"""

import contextlib
import os
import pathlib
import secrets
import shutil

import flax.traverse_util
import jax
import numpy as np

from pst_jax.convert.metadata import Metadata
from pst_jax.convert.weights import Weights, check_finite, read_weights
from train import checkpoint_files as files
from train.checkpoint import Checkpoints, Restored
from train.checkpoint_files import Which
from train.config import ConfigError
from train.run_folder import RunFolder

_COLLECTIONS = ("params/", "batch_stats/")
_BLOCK = "weights"
"""Our metadata block in a record's `extra`."""


def read(source: str | os.PathLike) -> Weights:
  """Weights of a file, a run folder or a folder of weights.

  Raises:
    ConfigError: there are none, or they cannot be used.
  """
  try:
    if pathlib.Path(source).expanduser().is_dir():
      return read_folder(source)
    return read_weights(pathlib.Path(source).expanduser())
  except (ValueError, OSError) as error:
    raise ConfigError(str(error)) from None


def read_folder(
  path: str | os.PathLike,
  *,
  model: str | None = None,
  step: Which = "latest",
  ema: bool | None = None,
) -> Weights:
  """Weights of a run folder, or of a folder that `write_folder` wrote, in float32.

  Args:
    path: the folder.
    model: the network that is expected; None: any.
    step: the checkpoint; "best" is the one with the highest top-1.
    ema: the moving average (True), the parameters (False), or the average if the run keeps one.

  Raises:
    ConfigError: the folder is no such folder; it has no such checkpoint, network or moving average;
      every checkpoint is damaged; or an entry holds NaN or infinity.
  """
  weights = load_folder(path, step, ema)
  found = weights.metadata.model
  if model not in (None, found):
    raise ConfigError(f"{path}: it holds weights of {found}, not of {model}: leave --model out")
  try:
    check_finite(weights.state_dict())
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from None
  return weights


def load_folder(
  path: str | os.PathLike, step: Which = "latest", ema: bool | None = None
) -> Weights:
  """As `read_folder`, for a look inside: NaN and infinity are left to be found."""
  run = RunFolder(path)
  if run.config.is_file():
    return _read_run(run, step, ema)
  if files.saved_steps(run.path):
    return _read_weights_folder(run.path, step, ema)
  raise ConfigError(
    f"{path}: this folder holds no weights: give the folder of a run (with config.json), or one "
    "that `python -m pst_jax convert` wrote"
  )


def _read_run(run: RunFolder, step: Which, ema: bool | None) -> Weights:
  config = run.read_config()
  kinds = []

  def choose(names):
    """The moving average or the parameters, as the checkpoint has them."""
    has_ema = any(name.startswith("ema/") for name in names)
    if ema and not has_ema:
      raise ConfigError(
        f"{run.path}: this run keeps no moving average (ema_decay is 0): take --weights params"
      )
    kinds.append("ema" if has_ema and ema is not False else "params")
    prefix = "ema/" if kinds[-1] == "ema" else ""
    return [name for name in names if name.startswith(tuple(prefix + c for c in _COLLECTIONS))]

  restored = _restore(run.checkpoints, choose, step)
  variables = _variables({k.removeprefix("ema/"): v for k, v in restored.state.items()})
  data = config.data
  metadata = Metadata(
    config.model.name,
    {
      "num_classes": len(variables["params"]["head"]["linear"]["bias"]),
      "stem": config.model.stem,
      "width": config.model.width,
    },
    source=run.path.resolve().name,
    weights=kinds[-1],
    step=restored.step,
    top_k=config.model.top_k,
    preprocessing={
      "image_size": data.image_size,
      "eval_crop": data.eval_crop,
      "mean": list(data.mean),
      "std": list(data.std),
    },
    class_names=_tuple(restored.extra.get("class_names")),
    num_batches_tracked=restored.step,
  )
  return Weights(variables, metadata)


def _read_weights_folder(path: pathlib.Path, step: Which, ema: bool | None) -> Weights:
  restored = _restore(path, lambda names: names, step)
  try:
    metadata = Metadata.from_block(restored.extra.get(_BLOCK))
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from None
  if metadata is None:
    raise ConfigError(f"{path}: these are checkpoints without a config: give the run's own folder")
  if ema is not None and ema != (metadata.weights == "ema"):
    raise ConfigError(f"{path}: it holds one set of weights ({metadata.weights}): take that")
  return Weights(_variables(restored.state), metadata)


def _restore(directory: pathlib.Path, choose, step: Which) -> Restored:
  with Checkpoints(directory, read_only=True) as checkpoints:
    restored = checkpoints.restore_part(choose, step)
  if restored is None:
    raise ConfigError(f"{directory}: there is no checkpoint yet: train the run first")
  return restored


def _variables(leaves: dict) -> dict:
  arrays = {name: np.asarray(leaf).astype(np.float32, copy=False) for name, leaf in leaves.items()}
  return flax.traverse_util.unflatten_dict(arrays, sep="/")


def _tuple(names: list | None) -> tuple | None:
  return None if names is None else tuple(names)


def check_destination(path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises ConfigError if `write_folder` could not write there."""
  target = _target(path)
  if not target.parent.is_dir():
    raise ConfigError(f"{path}: the folder {target.parent} does not exist; make it first")
  if not os.path.lexists(target):
    return
  if not _is_weights_folder(target):
    raise ConfigError(
      f"{path}: this exists and is no folder of weights that could be replaced; choose another name"
    )
  if not force:
    raise ConfigError(f"{path}: this folder exists and is kept; choose another name or use --force")


def write_folder(path: str | os.PathLike, weights: Weights, *, force: bool = False) -> None:
  """Writes weights as an Orbax checkpoint that `init_from` takes, whole or not at all.

  Args:
    path: the folder to make; the one that it is in must exist.
    weights: what to write.
    force: replace a folder of weights that is there.

  Raises:
    ConfigError: the place is taken, or writing failed; nothing was changed then.
  """
  check_destination(path, force=force)
  target = _target(path)
  temporary = target.with_name(f".{target.name}-{secrets.token_hex(8)}.tmp")
  metadata = weights.metadata
  try:
    with Checkpoints(temporary) as checkpoints:
      checkpoints.save(
        metadata.step or 0,
        # Committed to a device, as what is read back is: digests compile for each kind of array.
        jax.device_put(weights.variables, jax.local_devices()[0]),
        metrics=None,
        extra={_BLOCK: metadata.to_block()},
      )
    check_destination(path, force=force)  # writing takes a while, and others write too
    _move(temporary, target)
  except (ConfigError, OSError) as error:
    raise ConfigError(f"{path}: nothing was written: {error}") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _target(path: str | os.PathLike) -> pathlib.Path:
  return pathlib.Path(os.path.realpath(pathlib.Path(path).expanduser()))


def _is_weights_folder(path: pathlib.Path) -> bool:
  try:
    return any(_BLOCK in files.read_record(path, step)["extra"] for step in files.saved_steps(path))
  except ValueError:
    return False


def _move(temporary: pathlib.Path, target: pathlib.Path) -> None:
  """Puts a folder in the place of another one; a folder that holds something cannot be replaced."""
  aside = temporary.with_suffix(".old")
  with contextlib.suppress(FileNotFoundError):
    target.rename(aside)
  try:
    temporary.rename(target)
  except OSError:
    if aside.exists():
      aside.rename(target)
    raise
  shutil.rmtree(aside, ignore_errors=True)
