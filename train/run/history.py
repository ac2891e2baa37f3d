"""What a run folder tells of a run, also while it trains: its config and what it logged."""

from typing import Any, NamedTuple

from pst_jax.errors import UserError
from pst_jax.files import parse_json


class History(NamedTuple):
  """A run as its folder tells it."""

  name: str
  config: Any
  lines: list[dict]  # of metrics.jsonl

  def series(self, key: str) -> list[tuple[int, float]]:
    """(step, value) of all lines that have the key."""
    return [(line["step"], float(line[key])) for line in self.lines if key in line]

  def last(self, key: str) -> float | None:
    return values[-1][1] if (values := self.series(key)) else None


def read(run: str) -> History:
  """What a run folder tells.

  Raises:
    UserError: it is no run folder, or nothing is logged there yet.
  """
  from train.run.folder import RunFolder  # late, so that --help of the commands answers at once

  folder = RunFolder(run)
  config = folder.read_config()
  try:
    text = folder.metrics.read_bytes().decode(errors="replace")  # a bucket's path has no `errors`
  except OSError as error:
    raise UserError(
      f"{folder.metrics} cannot be read ({error.strerror}): give runs that have begun"
    ) from error
  lines = lines_of(text)
  if not lines:
    raise UserError(f"{folder.metrics} has no line yet: wait until the run has logged something")
  return History(str(run).rstrip("/"), config, lines)


def lines_of(text: str) -> list[dict]:
  """The lines of metrics.jsonl that are whole: the last one of a run that writes it may not be."""
  lines = []
  for line in text.splitlines():
    try:
      content = parse_json(line)
    except ValueError:
      continue
    if isinstance(content, dict) and isinstance(content.get("step"), int):
      lines.append(content)
  return lines
