"""Trackio; its own variables (TRACKIO_SPACE_ID, TRACKIO_DIR, ...) say where a run goes."""

import os
from collections.abc import Mapping

from train.run.observers.base import Facts, Observer


class Trackio(Observer):
  def begin(self, facts: Facts) -> str:
    import trackio

    project = os.environ.get("TRACKIO_PROJECT", "pst_jax")
    # It knows runs by their names.
    name = f"{facts.name}-{facts.run_id[:8]}"
    self._run = trackio.init(
      project,
      name=name,
      config=dict(facts.config),
      resume="allow",
      embed=False,
      auto_log_gpu=False,
      auto_log_cpu=False,
    )
    return f"project {project}, run {name}"

  def write(self, number: int, step: int, time: float, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def close(self, status: str) -> None:
    self._run.finish()
