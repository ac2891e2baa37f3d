"""What an observer is: a service to which the metrics of a run go as well."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Facts:
  """What an observer is told of a run."""

  run_id: str  # kept in the run folder; the same after every start
  name: str
  folder: str  # of the run's observers; exists
  config: Mapping[str, Any]  # {"batch_size": 256, "model.name": "r18-cls-pst", ...}
  pid: int  # of the process that trains


class Observer:
  """One service; all of it is called in order, in a process that does nothing else.

  Whatever it raises is told to the user in one sentence, and ends no run: a point that could not
  be written is given again later.
  """

  def begin(self, facts: Facts) -> str:
    """Opens the experiment of `facts.run_id`, the same one at every start; returns where it is."""
    raise NotImplementedError

  def write(self, number: int, step: int, time: float, values: Mapping[str, float]) -> None:
    """Adds a line of the log.

    Args:
      number: of the line, from 0; it goes on where the start before ended, and never goes back.
      step: of the training; several lines may have the same.
      time: of the line, in seconds since 1970.
      values: by name; not all need be finite.
    """
    raise NotImplementedError

  def close(self, status: str) -> None:
    """Waits until all is sent; `status` is "finished", "stopped" or "failed"."""
    raise NotImplementedError
