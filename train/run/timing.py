"""Where the time of a run goes."""

import contextlib
from collections.abc import Iterator
from time import monotonic

KINDS = {
  "startup": "starting",
  "compilation": "compiling",
  "compute": "computing",
  "data_wait": "waiting for data",
  "evaluation": "evaluating",
  "checkpoint": "saving checkpoints",
}
"""Kinds of time, and what the summary calls them."""


class Times:
  """Splits the time since it was made into the kinds of `KINDS`; every second counts once.

  It sees the time of the host. Devices work on while the host waits for data or saves, so that
  "compute" is the time in which the host had nothing else to do.

  Attributes:
    kind: of what goes on now.
    changes: counts up whenever that changes.
  """

  def __init__(self):
    self.kind, self.changes = "startup", 0
    self._seconds = dict.fromkeys(KINDS, 0.0)
    self._logged = dict(self._seconds)
    self._mark = monotonic()

  @contextlib.contextmanager
  def measure(self, kind: str) -> Iterator[None]:
    """Counts the time inside as of this kind."""
    began, before = monotonic(), self.kind
    self._begin(kind)
    try:
      yield
    finally:
      self._begin(before)
      seconds = monotonic() - began
      self._seconds[kind] += seconds
      self._mark += seconds

  def elapsed(self, kind: str) -> None:
    """Counts all time that was not measured yet as of this kind; what follows is compute."""
    self._begin("compute")
    now = monotonic()
    self._seconds[kind] += now - self._mark
    self._mark = now

  def since_last(self) -> dict[str, float]:
    """{"compute_seconds": ...} since the last call, without startup."""
    self.elapsed("compute")
    passed = {kind: self._seconds[kind] - self._logged[kind] for kind in KINDS}
    self._logged = dict(self._seconds)
    del passed["startup"]
    return {f"{kind}_seconds": round(seconds, 4) for kind, seconds in passed.items()}

  def summary(self) -> list[tuple[str, str]]:
    """Rows for the end of a run: all of the time, and the part of each kind, largest first."""
    self.elapsed("compute")
    total = sum(self._seconds.values())
    percentages = {
      KINDS[kind]: 100 * seconds / (total or 1) for kind, seconds in self._seconds.items()
    }
    largest = sorted(percentages, key=percentages.get, reverse=True)
    return [
      ("time of this start", f"{total:.0f} s"),
      ("time went into", ", ".join(f"{percentages[words]:.0f} % {words}" for words in largest)),
    ]

  def _begin(self, kind: str) -> None:
    self.kind = kind
    self.changes += 1
