"""An observer that keeps what it is given in a file, and fails where a variable tells it to."""

import json
import os
import pathlib
import time

from train.run.observers.base import Observer

NAME = "support.recording_observer:Recording"
FAILS = "RECORDING_FAILS"  # begin or write, or hang


def recorded(run_dir) -> list[dict]:
  file = pathlib.Path(run_dir) / "loggers" / "recorded.jsonl"
  return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def points(run_dir) -> list[tuple[int, int, dict]]:
  """(number, step, values) of each line that it was given."""
  found = [each for each in recorded(run_dir) if "number" in each]
  return [(each["number"], each["step"], each["values"]) for each in found]


class Recording(Observer):
  def begin(self, facts) -> str:
    self._file = pathlib.Path(facts.folder) / "recorded.jsonl"
    print("a library's chatter")
    while os.environ.get(FAILS) == "hang":
      time.sleep(0.1)
    self._fail("begin")
    self._add(begin=facts.run_id, name=facts.name, config=facts.config)
    return "a file"

  def write(self, number, step, time, values) -> None:
    self._fail("write")
    self._add(number=number, step=step, values=values)

  def close(self, status) -> None:
    self._add(close=status)

  def _fail(self, where):
    if os.environ.get(FAILS) == where:
      raise ConnectionError("no route to the service")

  def _add(self, **entry) -> None:
    with self._file.open("a") as file:
      file.write(json.dumps(entry) + "\n")
