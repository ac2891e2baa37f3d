"""A run's side of an observer: lines go to its process, and nothing of it is ever waited for.

A process of its own, as these libraries take seconds to import, start threads, print, install
handlers of signals and of the exit, and wait for networks: none of that may reach the training.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, time
from typing import Any

from pst_jax.buckets import is_url
from train.config_values import flatten
from train.run.folder import RunFolder
from train.run.observers.names import TENSORBOARD
from train.schema import Config

# How long the end of a run waits for what is not sent yet; it is sent all the same, if the machine
# stays. A run that is stopped must leave soon.
_PATIENCE = {"finished": 30.0, "stopped": 5.0, "failed": 5.0}
_MOST_WAITING = 2**26  # bytes


def observers_of(config: Config, folder: RunFolder, start_step: int) -> list["ObserverProcess"]:
  """Those of a run that `config.loggers` names, TensorBoard excepted, which needs no process."""
  facts = {
    "run_id": folder.identity(config).run,
    "name": folder.path.absolute().name,
    "config": flatten(config),
    "pid": os.getpid(),
  }
  return [ObserverProcess(name, facts, folder.path, start_step) for name in observer_names(config)]


def observer_names(config: Config) -> list[str]:
  return [name for name in config.loggers if name != TENSORBOARD]


class ObserverProcess:
  """An observer in its process.

  Args:
    name: as `registry.find` takes it.
    facts: what `base.Facts` has, but its folder.
    run_dir: folder of the run, which exists.
    start_step: the step that the run goes on from.
  """

  def __init__(self, name: str, facts: Mapping[str, Any], run_dir: Path, start_step: int):
    self.name = name
    self._is_local = not is_url(run_dir)
    self._folder = Path(run_dir).absolute() / "loggers"
    self._waiting, self._heard = bytearray(), bytearray()
    self._dropped = self._is_gone = False
    self._process = None
    self._start = {**facts, "folder": str(self._folder), "start_step": start_step}

  def begin(self) -> list[str]:
    """Starts the process; as all methods, returns sentences for the user."""
    if not self._is_local:
      return [
        f"{self.name} keeps in the run folder how far it is, for which this one must be on a disk: "
        "training goes on without it"
      ]
    try:
      self._folder.mkdir(exist_ok=True)
      with (self._folder / f"{self.name.replace(':', '.')}.log").open("ab") as log:
        self._process = subprocess.Popen(
          [sys.executable, "-m", "train.run.observers.child", self.name],
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=log,
          # Signals to the group of the run are not for it: it ends when its input does.
          start_new_session=True,
          env=os.environ | {"PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)},
        )
    except OSError as error:
      return [self._without(error.strerror)]
    for pipe in (self._process.stdin, self._process.stdout):
      os.set_blocking(pipe.fileno(), False)
    return self._send(self._start)

  def write(self, step: int, values: Mapping[str, float]) -> list[str]:
    return self._send({"step": step, "time": time(), "values": values})

  def close(self, status: str, *, at_once: bool = False) -> list[str]:
    """Ends the input, and waits a little for the process, or not at all."""
    if self._process is None:
      return []
    said = self._send({"status": status})
    deadline = monotonic() + (0 if at_once else _PATIENCE[status])
    while self._waiting and not self._is_gone and monotonic() < deadline:
      select.select([], [self._process.stdin], [], 0.1)
      said += self._flush()
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    try:
      self._process.wait(max(deadline - monotonic(), 0))
    except subprocess.TimeoutExpired:
      said.append(
        f"{self.name} is not done yet: it goes on in the background, and what it says is in "
        f"{self._folder}"
      )
    said += self._hear()
    if self._process.returncode and not self._is_gone:
      said.append(self._without(f"its process ended with code {self._process.returncode}"))
    self._process.stdout.close()
    return said

  def _send(self, message: dict) -> list[str]:
    if self._process is None or self._is_gone:
      return []
    line = json.dumps(message).encode() + b"\n"
    if len(self._waiting) + len(line) <= _MOST_WAITING:
      self._waiting += line
    elif not self._dropped:
      self._dropped = True
      return [f"{self.name} does not keep up: some of the lines of metrics.jsonl will be missing"]
    return self._flush()

  def _flush(self) -> list[str]:
    try:
      while self._waiting:
        del self._waiting[: os.write(self._process.stdin.fileno(), self._waiting[: 2**16])]
    except BlockingIOError:
      pass
    except OSError:
      self._is_gone = True
    said = list(self._hear())
    if self._is_gone and not said:
      said.append(self._without("its process has ended"))
    return said

  def _hear(self) -> Iterator[str]:
    """What the process says, which is for the user."""
    with contextlib.suppress(BlockingIOError, OSError):
      while part := os.read(self._process.stdout.fileno(), 2**16):
        self._heard += part
    while b"\n" in self._heard:
      line, _, self._heard = self._heard.partition(b"\n")
      yield line.decode(errors="replace")

  def _without(self, reason: str) -> str:
    return f"{self.name} has failed ({reason}): training goes on without it; see {self._folder}"
