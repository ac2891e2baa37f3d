"""One line of progress with the time that is left, for work counted in pieces."""

import datetime
import sys
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_SECONDS = 10.0


class Counter:
  """Shows how many of `total` pieces are done and when the rest will be; a context manager.

  On a terminal it is one line that changes, elsewhere a line every ten seconds, so that log files
  stay short. The last line says how long it took.
  """

  def __init__(self, title: str, total: int, unit: str):
    self._title, self._total, self._unit, self._done = title, total, unit, 0
    # The stream of now: TFDS prints, and is silenced by another one, while this counts.
    console = Console(highlight=False, file=sys.stdout)
    columns = BarColumn(bar_width=12), TextColumn("{task.description}", markup=False)
    disable = not console.is_terminal
    self._bar = Progress(*columns, console=console, disable=disable, transient=True)

  def __enter__(self) -> "Counter":
    self._started = self._shown = monotonic()
    self._task = self._bar.add_task(self._line(), total=self._total)
    self._bar.start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self._bar.stop()
    if kind is None:
      self._print(f"{self._title}: {self._done:,} {self._unit} in {_duration(self._seconds)}")

  def advance(self, count: int = 1) -> None:
    self._done += count
    if not self._bar.disable:
      self._bar.update(self._task, completed=self._done, description=self._line())
    elif monotonic() - self._shown >= _PLAIN_SECONDS:
      self._shown = monotonic()
      self._print(self._line())

  def _line(self) -> str:
    left = ""
    if self._done:
      left = f", ETA {_duration(self._seconds / self._done * (self._total - self._done))}"
    return f"{self._title}: {self._done:,}/{self._total:,} {self._unit}{left}"

  @property
  def _seconds(self) -> float:
    return monotonic() - self._started

  def _print(self, line: str) -> None:
    self._bar.console.print(line, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))
