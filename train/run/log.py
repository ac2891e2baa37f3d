"""What a run reports: metrics.jsonl, observers, one progress line, the summary at its end."""

import contextlib
import datetime
import math
import os
from collections.abc import Sequence
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pst_jax.errors import Stopped, UserError
from train.run.metric_files import MetricFiles
from train.run.observers.process import ObserverProcess

_PLAIN_SECONDS = 10.0


class RunLog:
  """Writes and shows the metrics of a run; a context manager.

  `metrics.jsonl` holds one JSON object a line, each with its `step`. It reads as if the run had
  never stopped before `start_step` (see `MetricFiles`). For this, log a step before its checkpoint
  is saved. Only one process of a run is `enabled`; in the others all methods do nothing. What it
  writes goes to the `observers` as well, and to TensorBoard's files unless told otherwise.

  Raises:
    UserError: (when it is used) the files cannot be written.
  """

  def __init__(
    self,
    run_dir: str | os.PathLike,
    *,
    total_steps: int,
    images_per_step: int,
    images_per_second_at_peak: float | None = None,
    start_step: int = 0,
    tensorboard: bool = True,
    observers: Sequence[ObserverProcess] = (),
    enabled: bool = True,
  ):
    self._run_dir = run_dir
    self._total_steps = total_steps
    self._images_per_step = images_per_step
    self._images_per_second_at_peak = images_per_second_at_peak
    self._start_step = self._step = start_step
    self._tensorboard = tensorboard
    self._observers = observers if enabled else ()
    self._enabled = enabled  # where not, the console prints nothing
    self._loss = self._speed = self._activity = ""
    # (step, seconds) where the time for the ETA and the time for the images per second begin;
    # the latter leaves out the idle seconds.
    self._origin = self._mark = None
    self._idle = 0.0
    self._shown, self._shown_at = None, -math.inf

  def __enter__(self) -> "RunLog":
    if self._enabled:
      self._files = MetricFiles(self._run_dir, self._start_step, tensorboard=self._tensorboard)
    console = Console(highlight=False, quiet=not self._enabled)
    self._progress = Progress(
      BarColumn(bar_width=12),
      TextColumn("{task.description}", markup=False),
      console=console,
      disable=not (self._enabled and console.is_terminal),
    )
    self._task = self._progress.add_task(
      self._line(), total=self._total_steps, completed=self._start_step
    )
    self._progress.start()
    for observer in self._observers:
      self._say(observer.begin())
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self._end_line()
    if self._enabled:
      try:
        self._files.close()
      except UserError:
        # The error that ends the run must reach the user; this one came after it.
        if error is None:
          raise
      finally:
        at_once = isinstance(error, KeyboardInterrupt)
        is_stop = at_once or isinstance(error, Stopped)
        status = "finished" if error is None else "stopped" if is_stop else "failed"
        for observer in self._observers:
          self._say(observer.close(status, at_once=at_once))

  def sync(self) -> None:
    """Call before a checkpoint: what is logged must not be older than what a run goes on from."""
    if self._enabled:
      self._files.sync()

  def advance(self, step: int) -> None:
    """Call after every step; costs microseconds."""
    self._step = step
    if self._origin is None:
      # Not before: the first step waits for its compilation.
      self._origin = self._mark = (step, monotonic())
      self._idle = 0.0
    self._show()

  def train(self, step: int, values: dict[str, Any]) -> None:
    """Logs the metrics of training, images per second since the last call among them.

    And, where it is known what the devices could do, how much of it they do.

    Of the `values`, numbers or 0-d arrays by name, `loss` goes to the progress line.
    """
    values = dict(values)
    if self._mark and step > self._mark[0]:
      seconds = max(monotonic() - self._mark[1] - self._idle, 1e-9)
      speed = (step - self._mark[0]) * self._images_per_step / seconds
      values["images_per_second"] = round(speed, 1)
      if self._images_per_second_at_peak:
        utilization = speed / self._images_per_second_at_peak
        values["model_flops_utilization"] = round(utilization, 4)
      self._speed = f"  {speed:,.0f} img/s"
    self._mark, self._idle = (step, monotonic()), 0.0
    if "loss" in values:
      self._loss = f"  loss {float(values['loss']):.4f}"
    self._step = step
    self.write(step, values)
    self._show()

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Logs any other metrics, such as those of an evaluation."""
    if self._enabled:
      self._files.write(step, values)
    if self._observers:
      numbers = {n: float(value) for n, value in values.items() if not isinstance(value, str)}
      for observer in self._observers:
        self._say(observer.write(step, numbers))

  @contextlib.contextmanager
  def activity(self, name: str):
    """Shows what goes on beside training, and leaves its time out of the images per second."""
    began, self._activity = monotonic(), f"  ({name})"
    self._show()
    try:
      yield
    finally:
      self._idle += monotonic() - began
      self._activity = ""
      self._show()

  def message(self, text: str) -> None:
    """Prints text above the progress line."""
    # A path may have what Rich takes for an emoji's name, as in run:x:1.
    self._progress.console.print(text, markup=False, emoji=False, soft_wrap=True)

  def _say(self, sentences: list[str]) -> None:
    for sentence in sentences:
      self.message(sentence)

  def summary(self, rows: list[tuple[str, str]], next_commands: list[str]) -> None:
    """Ends the progress line and prints a table and the commands to try next.

    Nothing is wrapped, so that paths and commands can be copied from any terminal.
    """
    self._end_line()
    width = max((len(name) for name, _ in rows), default=0)
    self.message("\n".join(["", *(f"{name:<{width}}  {value}" for name, value in rows)]))
    if next_commands:
      self.message("\n".join(["", "Next:", *(f"  {command}" for command in next_commands)]))

  def _line(self) -> str:
    left = ""
    if self._origin and self._step > self._origin[0]:
      pace = (monotonic() - self._origin[1]) / (self._step - self._origin[0])
      seconds = round(pace * (self._total_steps - self._step))
      left = f"  ETA {datetime.timedelta(seconds=seconds)}"
    return f"step {self._step}/{self._total_steps}{self._loss}{self._speed}{left}{self._activity}"

  def _state(self) -> tuple:
    return self._step, self._loss, self._speed

  def _show(self) -> None:
    """Updates the progress line; where there is no terminal, prints it now and then."""
    if not self._progress.disable:
      self._progress.update(self._task, completed=self._step, description=self._line())
    elif monotonic() - self._shown_at >= _PLAIN_SECONDS:
      self._print_line()

  def _print_line(self) -> None:
    self._shown, self._shown_at = self._state(), monotonic()
    self.message(self._line())

  def _end_line(self) -> None:
    if self._progress.disable and self._state() != self._shown:
      self._print_line()
    self._progress.stop()
