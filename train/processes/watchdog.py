"""The processes of a run watch each other: when one fails, dies or hangs, all stop and say why.

JAX's heartbeat notices a lost process only after its timeout, and then aborts the others with a
stack trace; until then their collectives hang. So every process keeps a TCP line to process 0. When
a process is killed, the system closes its line, which is noticed at once; when it fails, its error
goes to all others over the line; when it is silent, or its run makes no progress, all leave their
stacks in the run folder.
"""

import contextlib
import faulthandler
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait

from train.run.timing import KINDS, Times

# How long a process that fails waits for the others to have read why.
_LINGER_SECONDS = 3.0
_MAX_MESSAGE_BYTES = 2**16
_MAX_ERROR_LENGTH = 4000
_BEATS = 20
LOST = 1
"""Exit code when another process was lost, or hangs."""
# These take long without a step, each within one measurement.
PATIENCE = {"startup": 4, "compilation": 4, "evaluation": 4, "checkpoint": 4}


class Watchdog:
  """One process's end of the lines; in process 0 the end of all lines.

  Args:
    lines: of `lines.open_lines`; none: there is nobody to watch.
    silence: seconds without a word after which another process is taken for lost.
    stacks: a file in an existing folder for this process's stacks; None: they are not written.
    leave: what ends this process, given an exit code, from a thread that is not the main one.
  """

  def __init__(
    self,
    lines: dict[int, Connection],
    process_id: int = 0,
    num_processes: int = 1,
    *,
    silence: float = 80.0,
    stacks: pathlib.Path | None = None,
    leave: Callable[[int], None] = os._exit,
  ):
    self._process_id, self._num_processes = process_id, num_processes
    self._silence, self._stacks, self._leave = silence, stacks, leave
    # Beats since the last word of each; counted, so that a suspended machine is no silence.
    self._lines, self._silent_beats = lines, dict.fromkeys(lines, 0)
    self._lock, self._sending, self._parting = threading.Lock(), threading.Lock(), False
    self._threads = [
      threading.Thread(target=target, daemon=True) for target in (self._listen, self._beat) if lines
    ]
    for thread in self._threads:
      thread.start()

  def announce(self, error: str, code: int, *, hangs: bool = False) -> None:
    """Tells all others why this one ends, so that they do too; if it `hangs`, with their stacks."""
    error = error[:_MAX_ERROR_LENGTH]
    message = {"process": self._process_id, "error": error, "code": code, "hangs": hangs}
    if self._pass_on(message):
      self._linger()

  def part(self) -> None:
    """Ends the lines of a run that ended well; after every process came to its end."""
    self._parts()
    self._send({"bye": True})

  def leave_together(self, code: int) -> None:
    """Ends this process, where all others end themselves too; process 0 goes last."""
    self.part()
    self._linger()
    self._leave(code)

  def fail(self, error: str, code: int, *, hangs: bool = False) -> None:
    """Prints the error and ends all processes with it, from any thread but the lines' own."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    self.announce(error, code, hangs=hangs)
    self._leave(code)

  def _parts(self) -> bool:
    """Whether this is the first reason to part."""
    with self._lock:
      before, self._parting = self._parting, True
    return not before

  def _linger(self) -> None:
    """Process 0 holds JAX's coordination service, whose loss would abort the others at once."""
    if self._threads and threading.current_thread() is not self._threads[0]:
      self._threads[0].join(_LINGER_SECONDS)

  def _listen(self) -> None:
    """Until all other ends have said goodbye or are lost."""
    processes = {line: process for process, line in self._lines.items()}
    while processes:
      for line in wait(list(processes)):
        message = {"process": processes[line], "error": None, "code": LOST}
        with contextlib.suppress(OSError, EOFError, ValueError):
          message = json.loads(line.recv_bytes(_MAX_MESSAGE_BYTES))
        if "alive" in message:
          self._silent_beats[processes[line]] = 0
          continue
        del self._silent_beats[processes.pop(line)]
        if "bye" not in message:
          self._stop(message)

  def _beat(self) -> None:
    """Says that this process is alive, and looks for others that do not."""
    while not self._parting:
      self._send({"alive": True})
      for process, beats in list(self._silent_beats.items()):
        if beats > _BEATS:
          error = (
            f"it has given no sign of life for {self._silence:.0f} s, suspended or cut off; give "
            "the same command to all processes again to go on from the last checkpoint"
          )
          self._stop({"process": process, "error": error, "code": LOST, "hangs": True})
        elif process in self._silent_beats:
          self._silent_beats[process] = beats + 1
      time.sleep(self._silence / _BEATS)

  def _stop(self, message: dict) -> None:
    if self._pass_on(message):
      print(f"error: {self._sentence(message)}", file=sys.stderr, flush=True)
      self._linger()
      self._leave(message["code"])

  def _pass_on(self, message: dict) -> bool:
    """From process 0 to all, from the others to process 0; False: this one parts already."""
    if not self._parts():
      return False
    if self._stacks and message.get("hangs"):
      with contextlib.suppress(OSError):
        # A new run that hangs while it starts has no folder yet.
        self._stacks.parent.mkdir(parents=True, exist_ok=True)
        with open(self._stacks, "w") as file:
          faulthandler.dump_traceback(file, all_threads=True)
    self._send(message)
    return True

  def _sentence(self, message) -> str:
    who = f"process {message['process']} of {self._num_processes}"
    if message["error"] is not None:
      return f"{who} stopped: {message['error']}"
    return (
      f"{who} has ended without a word, killed or with its machine: give the same command to all "
      "processes again to go on from the last checkpoint"
    )

  def _send(self, message) -> None:
    text = json.dumps(message).encode()
    with self._sending:
      for line in self._lines.values():
        with contextlib.suppress(OSError):
          line.send_bytes(text)


@contextlib.contextmanager
def watch_stalls(
  watch: Watchdog, times: Times, minutes: float, run_dir: pathlib.Path, tick_seconds: float = 1.0
) -> Iterator[None]:
  """While it lasts, what the run does must change within `minutes`, at times `PATIENCE`."""
  done = threading.Event()

  def run():
    changes, idle = times.changes, 0.0
    while not done.wait(tick_seconds):
      # Counted and not measured: a process that was suspended has not been idle.
      idle = idle + tick_seconds if changes == times.changes else 0.0
      changes, limit = times.changes, minutes * PATIENCE.get(times.kind, 1)
      if idle > 60 * limit:
        watch.fail(
          f"no progress for {limit:g} minutes while {KINDS[times.kind]}; the stacks of all "
          f"processes are in {run_dir}/stacks-*.txt: give the same command again to go on from the "
          "last checkpoint, with --stall-minutes where so long is right",
          LOST,
          hangs=True,
        )
        return

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
