"""What lies in a folder of checkpoints, read as plain files: steps and their records.

DIR/300/state     the leaves, as nested dictionaries in Orbax's own format
DIR/300/record    {"extra", "metrics", "leaves": {name: [dtype, shape, digest]}, "sha256"}
DIR/damaged/400   a checkpoint that was found damaged; kept for inspection, never read again
"""

import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from typing import Literal

from train.config import ConfigError

Which = int | Literal["latest", "best"]


def check_directory(directory: str | os.PathLike, needed_bytes: int = 0) -> None:
  """Makes the directory and really writes a file into it.

  Raises:
    ConfigError: that failed, or fewer than `needed_bytes` bytes are free.
  """
  try:
    pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe") as probe:
      probe.write(bytes(1 << 16))
      probe.flush()
      os.fsync(probe.fileno())
    free = shutil.disk_usage(directory).free
  except OSError as error:
    raise ConfigError(
      f"The folder {directory} cannot be written ({error.strerror}); "
      "choose another run_dir, or make room and set its permissions."
    ) from error
  if free < needed_bytes:
    raise ConfigError(
      f"The checkpoints need {needed_bytes / 1e9:.3g} GB in {directory}, and {free / 1e9:.3g} GB "
      "are free; free some space, choose another run_dir, or lower checkpoint.keep_latest."
    )


def absolute(directory: str | os.PathLike) -> pathlib.Path:
  return pathlib.Path(directory).expanduser().absolute()


def saved_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints, ascending; unfinished ones have other names."""
  if not directory.is_dir():
    return []
  return sorted(int(x.name) for x in directory.iterdir() if x.name.isdecimal() and x.is_dir())


def remove_unfinished(directory: pathlib.Path) -> None:
  """Removes what a killed or failed save left, before the room on the disk is looked at."""
  for path in directory.glob("*.orbax-checkpoint-tmp*"):
    shutil.rmtree(path)


def steps_to_try(directory: pathlib.Path, step: Which) -> list[int]:
  """The step asked for, and after "latest" and "best" the ones to fall back to, in order."""
  steps = saved_steps(directory)[::-1]
  if step == "best":
    top1 = {number: read_top1(directory, number) for number in steps}
    return sorted(steps, key=lambda n: -math.inf if top1[n] is None else top1[n], reverse=True)
  if step == "latest":
    return steps
  if step not in steps:
    raise ConfigError(f"There is no checkpoint of step {step} in {directory}; there are {steps}.")
  return [step]


def sealed(record: dict) -> dict:
  """The record as JSON gives it back, with the checksum that `read_record` verifies."""
  record = json.loads(json.dumps(record))
  return record | {"sha256": _sha256(record)}


def read_record(directory: pathlib.Path, step: int) -> dict:
  """Raises ValueError when the record is missing or not what was written."""
  try:
    record = json.loads((directory / str(step) / "record" / "metadata").read_text())
    intact = record.pop("sha256") == _sha256(record)
  except (OSError, ValueError, KeyError, AttributeError) as error:
    raise ValueError("its record is missing or unreadable") from error
  if not intact:
    raise ValueError("its record was changed")
  return record


def read_top1(directory: pathlib.Path, step: int) -> float | None:
  """The step's metric `top1`; None when it has none, or no readable record."""
  try:
    return finite(read_record(directory, step)["metrics"].get("top1"))
  except ValueError:
    return None


def finite(value: float | None) -> float | None:
  return value if value is not None and math.isfinite(value) else None


def short(error: Exception) -> str:
  """The reason in a few words; TensorStore buries the operating system's in a long text."""
  text = str(error).strip() or type(error).__name__
  code = re.search(r"os_error_code='(\d+)'", text)
  return os.strerror(int(code[1])) if code else text.splitlines()[0].split(". See")[0][:150]


def _sha256(record: dict) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
