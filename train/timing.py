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
  """

  def __init__(self):
    self._seconds = dict.fromkeys(KINDS, 0.0)
    self._logged = dict(self._seconds)
    self._mark = monotonic()

  @contextlib.contextmanager
  def measure(self, kind: str) -> Iterator[None]:
    """Counts the time inside as of this kind."""
    began = monotonic()
    try:
      yield
    finally:
      seconds = monotonic() - began
      self._seconds[kind] += seconds
      self._mark += seconds

  def rest(self, kind: str) -> None:
    """Counts all time that was not measured yet as of this kind."""
    now = monotonic()
    self._seconds[kind] += now - self._mark
    self._mark = now

  def since_last(self) -> dict[str, float]:
    """{"compute_seconds": ...} since the last call (startup: never); the rest is compute."""
    self.rest("compute")
    passed = {kind: self._seconds[kind] - self._logged[kind] for kind in KINDS}
    self._logged = dict(self._seconds)
    del passed["startup"]
    return {f"{kind}_seconds": round(seconds, 4) for kind, seconds in passed.items()}

  def summary(self) -> list[tuple[str, str]]:
    """Rows for the end of a run: all of the time, and the share of each kind, largest first."""
    self.rest("compute")
    total = sum(self._seconds.values())
    shares = {KINDS[kind]: 100 * seconds / (total or 1) for kind, seconds in self._seconds.items()}
    largest = sorted(shares, key=shares.get, reverse=True)
    return [
      ("time of this start", f"{total:.0f} s"),
      ("time went into", ", ".join(f"{shares[words]:.0f} % {words}" for words in largest)),
    ]
