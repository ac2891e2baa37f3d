"""The folder of a run: its config, its lock, its identity, and where everything in it lies."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pst_jax.buckets import is_absent, is_url
from pst_jax.checkpoints.layout import RUN_ID, CorruptError, Identity, read_record, saved_steps
from pst_jax.errors import UserError
from pst_jax.files import lock, place, write_output
from pst_jax.lease import lease
from pst_jax.overwrite import recover_file
from pst_jax.presence import is_file, is_there
from train.config import from_json, load_file
from train.config_values import difference, flatten, to_json
from train.schema import RESUME_MAY_CHANGE, Config


def load(source: str) -> Config:
  """The config of a config file, or of a run in its own folder, of which that is the run_dir.

  Raises:
    UserError: there is neither, or it cannot be used.
  """
  path = place(source, "CONFIG", ("gs",))
  path = path.parent if path.name == "config.json" else path
  if not (is_url(path) or is_there(path / "config.json")):
    return load_file(source)
  # It may have been moved since.
  return dataclasses.replace(RunFolder(path).read_config(), run_dir=str(path))


class RunFolder:
  """Paths inside the folder of one run, on a disk or in a bucket of gs://.

  Attributes:
    require_lock: raises UserError where a lock in a bucket was lost to another process.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = place(path, "run_dir", ("gs",))
    self.config = self.path / "config.json"
    self.lock = self.path / ".lock"
    self.run_id = self.path / RUN_ID
    self.checkpoints = self.path / "checkpoints"
    self.metrics = self.path / "metrics.jsonl"
    self.tensorboard = self.path / "tensorboard"
    self.profile = self.path / "profile"
    self.require_lock = lambda: None

  def read_config(self) -> Config:
    """The resolved config of the run.

    Raises:
      UserError: the folder is no run, or its config is corrupt.
    """
    if not self.has_config():
      raise UserError(
        f"{self.path} is no run folder: it has no config.json; give the run_dir of a training run"
      )
    try:
      return from_json(_text(self.config))
    except (UserError, UnicodeDecodeError, RecursionError) as error:
      raise UserError(f"{self.config} cannot be used: {error}") from None

  def has_config(self) -> bool:
    """Whether the folder is a run's; UserError if nobody can tell."""
    if is_url(self.path):
      return not is_absent(self.config)
    recover_file(self.config)
    return is_file(self.config)

  def identity(self, config: Config) -> Identity:
    """What every checkpoint of the run must say of itself, once the run is open."""
    free = RESUME_MAY_CHANGE if config.bound_to_length() else RESUME_MAY_CHANGE | {"epochs"}
    # Evaluations may get other names, which `difference` knows how to compare.
    fixed = {
      name: value
      for name, value in flatten(config).items()
      if name not in free and not name.startswith("evals.")
    }
    run = _text(self.run_id).strip() if is_file(self.run_id) else None
    return Identity(run, fixed)


@contextlib.contextmanager
def open_run(config: Config, is_main_process: bool = True) -> Iterator[RunFolder]:
  """Makes the folder, or checks that an existing one holds the same run, and locks it.

  Only the main process writes and locks.

  Raises:
    UserError: the folder cannot be written, holds another config, or is in use.
  """
  folder = RunFolder(config.run_dir)
  if not is_main_process:
    yield folder
    return
  texts = {
    "unwritable": f"run_dir {folder.path} cannot be written ({{reason}}): choose another --run-dir",
    "busy": f"another process is training in {folder.path}: stop it first, or choose another "
    "--run-dir",
  }
  if is_url(folder.path):
    with lease(folder.lock, **texts) as folder.require_lock:
      _prepare(folder, config)
      yield folder
    return
  with lock(folder.lock, **texts) as file:
    _prepare(folder, config)
    _sign(file)
    yield folder


def _prepare(folder: RunFolder, config: Config) -> None:
  _compare(folder, config)
  # Also when resuming: evaluation looks for the data where they are now.
  write_output(folder.config, to_json(config).encode(), force=True)
  if not is_url(folder.run_id):
    recover_file(folder.run_id)
  if not is_there(folder.run_id):
    run = _run_of_checkpoints(folder) or secrets.token_hex(16)
    write_output(folder.run_id, f"{run}\n".encode())


def _run_of_checkpoints(folder: RunFolder) -> str | None:
  """What the newest checkpoint that says so is of; with another name all would be passed over."""
  for step in reversed(saved_steps(folder.checkpoints)):
    with contextlib.suppress(CorruptError):
      if run := read_record(folder.checkpoints, step)["run"]:
        return run
  return None


def _text(path: Path) -> str:
  try:
    return path.read_text()
  except OSError as error:  # of reading itself it would name no file
    raise UserError(
      f"{path} cannot be read ({error.strerror}): check the disk and the permissions, then give "
      "the same command again"
    ) from None


def _sign(file: TextIO) -> None:
  """Writes into the lock by what the other processes of the run recognise the folder."""
  try:
    file.truncate(0)
    file.write(secrets.token_hex(16))
    file.flush()
    os.fsync(file.fileno())
  except OSError as error:
    raise UserError(
      f"{file.name} could not be written ({error.strerror}): free some space or choose another "
      "--run-dir"
    ) from None


def _compare(folder: RunFolder, config: Config) -> None:
  if folder.has_config():
    old = folder.read_config()
    changed = difference(old, config)
    is_longer = config.epochs > old.epochs and len(changed) == 1
    bound = config.bound_to_length()
    if changed and not (is_longer and bound is None):
      hint = (
        f"; it cannot be made longer, as {bound}, but a new run can start from its weights with "
        f"--init-from {folder.path}"
      )
      raise UserError(
        f"{folder.path} holds a run with another config ({'; '.join(changed)}): choose another "
        f"--run-dir, or give the old values to resume it{hint if is_longer else ''}"
      )
  elif saved_steps(folder.checkpoints):
    raise UserError(
      f"{folder.path} holds checkpoints, but the config.json that says what run they are of is "
      "gone: put it back, or choose another --run-dir"
    )
