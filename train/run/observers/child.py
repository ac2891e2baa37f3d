"""python -m train.run.observers.child NAME: an observer, on lines of JSON from the run.

The first line is what the run is; then come lines of its log, and at a proper end its status. Each
line of standard output is a sentence for the user, and all that a library prints goes to the log.

What was given to the observer is noted in the run folder before it is given: after a kill a point
may be missing, but none is there twice. Lines of metrics.jsonl from before this start that the
observer has not got yet (it was out of reach, or was not asked for then) come first.
"""

import collections
import contextlib
import fcntl
import json
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, time

from pst_jax.errors import describe
from pst_jax.files import write_output
from pst_jax.presence import is_file
from train.run.history import lines_of
from train.run.observers import registry
from train.run.observers.base import Facts

# A service that does not answer must not keep the process for ever when the run has ended.
_LONGEST_END = 600.0
_RETRY_SECONDS = 30.0


class Sender:
  """Gives each line to the observer once, in order, whatever it raises."""

  def __init__(self, name: str, note: Path, say: Callable[[str], None]):
    self._name, self._note, self._say = name, note, say
    noted = json.loads(note.read_text()) if is_file(note) else {}
    self._noted = noted.get("step", 0), noted.get("line", 0)
    self._number = noted.get("number", 0)
    self._seen = 0, 0  # the newest step, and how many lines of it there were
    self._pending = collections.deque()
    self._retry_at, self._has_failed = 0.0, False
    self._facts = None

  def begin(self, facts: Facts) -> None:
    self._facts = facts
    self._work()

  def add(self, step: int, when: float, values: dict) -> None:
    """Takes a line; one that the observer was given at an earlier start is left out."""
    before, count = self._seen
    self._seen = step, count + 1 if step == before else 1
    if self._seen > self._noted and values:
      self._pending.append((self._seen, (step, when, values)))
      self._work()

  def close(self, status: str) -> None:
    self._retry_at = 0.0
    self._work()
    if self._facts is None:
      self._attempt(lambda: self._observer.close(status))

  def _work(self) -> None:
    if monotonic() >= self._retry_at:
      self._attempt(self._give)

  def _give(self) -> None:
    if self._facts:
      self._observer = registry.find(self._name)
      self._say(f"{self._name}: {self._observer.begin(self._facts)}")
      self._facts = None
    while self._pending:
      place, line = self._pending[0]
      before = self._noted
      self._write_note(place, self._number + 1)
      try:
        self._observer.write(self._number, *line)
      except BaseException:
        self._write_note(before, self._number)
        raise
      self._noted, self._number = place, self._number + 1
      self._pending.popleft()
    self._retry_at, self._has_failed = 0.0, False

  def _write_note(self, place: tuple[int, int], number: int) -> None:
    content = {"step": place[0], "line": place[1], "number": number}
    write_output(self._note, json.dumps(content).encode(), force=True)

  def _attempt(self, action) -> None:
    try:
      action()
    except BaseException as error:  # some libraries exit where there is no login
      if isinstance(error, KeyboardInterrupt):
        raise
      if not self._has_failed:
        self._has_failed = True
        reason = textwrap.shorten(describe(error), 200, placeholder=" ...").rstrip(".")
        self._say(
          f"{self._name} has failed ({reason}): training goes on without it; what it does not get "
          f"now it gets later, or at the next start; see {self._note.parent}"
        )
      self._retry_at = monotonic() + _RETRY_SECONDS


def _earlier(path: Path, until: int) -> Iterator[tuple[int, float, dict]]:
  """The lines of metrics.jsonl up to a step."""
  if not is_file(path):
    return
  for line in lines_of(path.read_text(errors="replace")):
    if (step := line.pop("step")) <= until:
      yield step, time(), {name: float(x) for name, x in line.items() if _is_number(x)}


def _is_number(value) -> bool:
  return not isinstance(value, str) or value in ("nan", "inf", "-inf")


def _messages(lines) -> Iterator[dict]:
  """Until the end of the input, or the half line of a run that was killed."""
  with contextlib.suppress(ValueError):
    yield from map(json.loads, lines)


def main(name: str) -> None:
  spoken = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)

  def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # the run may be gone
      print(" ".join(sentence.split()), file=spoken)

  messages = _messages(sys.stdin)
  start = next(messages, None)
  if start is None:
    return
  start_step, facts = start.pop("start_step"), Facts(**start)
  folder, file = Path(facts.folder), name.replace(":", ".")
  with (folder / f"{file}.lock").open("a") as lock:
    # The process of the start before may still be sending. Some file systems have no locks.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    sender = Sender(name, folder / f"{file}.json", say)
    sender.begin(facts)
    for line in _earlier(folder.parent / "metrics.jsonl", start_step):
      sender.add(*line)
    status = "stopped"  # what a run that was killed says is nothing
    for message in messages:
      if "status" in message:
        status = message["status"]
      else:
        sender.add(message["step"], message["time"], message["values"])
    end = threading.Timer(_LONGEST_END, os._exit, [1])
    end.daemon = True
    end.start()
    sender.close(status)


if __name__ == "__main__":
  main(sys.argv[1])
