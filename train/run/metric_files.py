"""The files that keep a run's metrics: metrics.jsonl, and the same for TensorBoard."""

import contextlib
import json
import math
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from pst_jax.buckets import is_url
from pst_jax.checkpoints import layout
from pst_jax.errors import UserError
from pst_jax.files import finite_or_text, parse_json, write_output
from pst_jax.overwrite import recover_file
from pst_jax.presence import is_there
from train.run.spool import Spool

_FLUSH_SECONDS = 10.0


class MetricFiles:
  """Writes metrics to both files at once.

  tensorboardX's own writer is not used: it writes in a thread, where a full disk ends in a
  traceback that neither stops the run nor can be caught.

  Args:
    run_dir: existing folder of the run.
    start_step: the step that the run goes on from; lines after it, and a last one that was cut off,
      are dropped from metrics.jsonl, and TensorBoard is told to drop them.
    tensorboard: whether its file is written too.

  Raises:
    UserError: (by every method) a file cannot be written.
  """

  def __init__(self, run_dir: str | os.PathLike, start_step: int, *, tensorboard: bool = True):
    run_dir, self._spool = _spool(run_dir)
    self._metrics, folder = run_dir / "metrics.jsonl", run_dir / "tensorboard"
    with _explained(run_dir):
      _drop_after(self._metrics, start_step)
      self._lines = self._metrics.open("a")
      self._events = None
      if not tensorboard:
        return
      record_writer = _import_record_writer()
      folder.mkdir(exist_ok=True)
      # TensorBoard reads the files of a folder in the order of their names, which the clock of a
      # machine that is set back, or of another one, does not keep.
      before = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
      last = max((int(each) for each in before if each.isdecimal()), default=0)
      stamp = max(time.time_ns(), last + 1)
      name = f"events.out.tfevents.{stamp}.{socket.gethostname()}"
      self._events = record_writer(str(folder / name))
      self._flushed = -math.inf
      self._add_event(file_version="brain.Event:2")
      self._add_event(step=start_step + 1, session_log={"status": "START"})

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Adds a line, which is on disk when this returns, and its numbers to TensorBoard.

    The values are numbers, texts or 0-d arrays; one that is not finite becomes the string "nan",
    "inf" or "-inf" in the line.
    """
    values = {n: value.item() if hasattr(value, "item") else value for n, value in values.items()}
    line = {"step": step} | {name: finite_or_text(value) for name, value in values.items()}
    scalars = [
      {"tag": name, "simple_value": value}
      for name, value in values.items()
      if isinstance(value, int | float)
    ]
    with _explained(self._metrics):
      self._lines.write(json.dumps(line, allow_nan=False) + "\n")
      self._lines.flush()
      self._add_event(step=step, summary={"value": scalars})
      if self._spool:
        self._spool.publish_now_and_then()

  def sync(self) -> None:
    """Waits until all lines are on the disk, also after a power failure."""
    with _explained(self._metrics):
      os.fsync(self._lines.fileno())
      if self._spool:
        if self._events:
          self._events.flush()
        self._spool.publish()

  def close(self) -> None:
    with _explained(self._metrics), contextlib.closing(self._events or self._lines):
      self._lines.close()
    if self._spool:
      with _explained(self._metrics):
        self._spool.close()

  def _add_event(self, **fields) -> None:
    if self._events is None:
      return
    from tensorboardX.proto.event_pb2 import Event

    self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())
    if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
      self._events.flush()
      self._flushed = time.monotonic()


def _spool(run_dir: str | os.PathLike) -> tuple[pathlib.Path, Spool | None]:
  """(The local folder that is written to, what brings its files to the bucket)."""
  if not is_url(run_dir):
    return pathlib.Path(run_dir), None
  with _explained(run_dir):
    spool = Spool(layout.absolute(run_dir), "metrics.jsonl")
  return spool.folder, spool


def _import_record_writer() -> type:
  # What tensorboardX imports where it is installed takes seconds, and serves other classes alone.
  hidden = {"torch", "google.cloud.storage"} - sys.modules.keys()
  sys.modules.update(dict.fromkeys(hidden))
  try:
    from tensorboardX.record_writer import RecordWriter
  finally:
    for name in hidden:
      del sys.modules[name]
  return RecordWriter


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f"{error.filename or path} cannot be written ({error.strerror}): free some space or mend the "
      "disk, then give the same command again to go on from the last checkpoint"
    ) from error


def _drop_after(path: pathlib.Path, step: int) -> None:
  """Rewrites the file, in one atomic move, without lines after a step and unreadable ones."""
  recover_file(path)
  if not is_there(path):
    return
  text = path.read_text(errors="replace")
  kept = "".join(f"{line}\n" for line in text.splitlines() if _is_until(line, step))
  if kept != text:
    write_output(path, kept.encode(), force=True)


def _is_until(line: str, step: int) -> bool:
  try:
    return parse_json(line)["step"] <= step
  except (ValueError, TypeError, KeyError):
    return False
