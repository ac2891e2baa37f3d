"""The folder of a run: its config, its lock, and where everything in it lies."""

import contextlib
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator

from train.config import Config, ConfigError, difference, from_json, to_json
from train.paths import local_folder


class RunFolder:
  """Paths inside the folder of one run."""

  def __init__(self, path: str | os.PathLike):
    self.path = local_folder(path, "run_dir")
    self.config = self.path / "config.json"
    self.lock = self.path / ".lock"
    self.checkpoints = self.path / "checkpoints"
    self.metrics = self.path / "metrics.jsonl"
    self.tensorboard = self.path / "tensorboard"
    self.profile = self.path / "profile"

  def read_config(self) -> Config:
    """The resolved config of the run.

    Raises:
      ConfigError: the folder is no run, or its config is damaged.
    """
    if not self.config.is_file():
      raise ConfigError(
        f"{self.path} is no run folder: it has no config.json; give the run_dir of a training run"
      )
    try:
      return from_json(self.config.read_text())
    except (ValueError, OSError) as error:  # ConfigError is a ValueError, and so is bad UTF-8
      raise ConfigError(f"{self.config} cannot be used: {error}") from None


@contextlib.contextmanager
def open_run(config: Config, is_main_process: bool = True) -> Iterator[RunFolder]:
  """Makes the folder, or checks that an existing one holds the same run, and locks it.

  Args:
    config: saved as config.json in a new folder.
    is_main_process: the one process that writes and locks.

  Raises:
    ConfigError: the folder cannot be written, holds another config, or is in use.
  """
  folder = RunFolder(config.run_dir)
  if not is_main_process:
    yield folder
    return
  try:
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = open(folder.lock, "a+")  # noqa: SIM115
  except OSError as error:
    raise ConfigError(
      f"run_dir {folder.path} cannot be written ({error.strerror}): choose another --run-dir"
    ) from None
  with lock:
    try:
      # The system drops the lock with the process, however that ends.
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ConfigError(
        f"another process is training in {folder.path}: stop it first, or choose another --run-dir"
      ) from None
    _save_or_compare(folder, config)
    with _writing(folder.lock):
      # By this the other processes of the run recognise the folder.
      lock.truncate(0)
      lock.write(secrets.token_hex(16))
      lock.flush()
      os.fsync(lock.fileno())
    yield folder


def _save_or_compare(folder: RunFolder, config: Config) -> None:
  if folder.config.exists():
    changed = difference(folder.read_config(), config)
    if changed:
      raise ConfigError(
        f"{folder.path} holds a run with another config ({'; '.join(changed)}): choose another "
        "--run-dir, or give the old values to resume it"
      )
  # Also when resuming: evaluation looks for the data where they are now.
  temporary = folder.config.with_suffix(".tmp")
  with _writing(folder.config):
    with open(temporary, "w") as file:
      file.write(to_json(config))
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, folder.config)


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise ConfigError(
      f"{path} could not be written ({error.strerror}): free some space or choose another --run-dir"
    ) from None
