"""Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE, ...) say where a run goes."""

import os
from collections.abc import Mapping

from train.run.observers.base import Facts, Observer


class Wandb(Observer):
  def begin(self, facts: Facts) -> str:
    import wandb

    # What is left after the timeout is on the disk, for `wandb sync`.
    settings = wandb.Settings(
      console="off", disable_git=True, x_stats_pid=facts.pid, finish_timeout=300
    )
    self._run = wandb.init(
      id=facts.run_id,
      resume="allow",
      project=os.environ.get("WANDB_PROJECT", "pst_jax"),
      name=os.environ.get("WANDB_NAME", facts.name),
      dir=os.environ.get("WANDB_DIR", facts.folder),
      config=dict(facts.config),
      allow_val_change=True,
      settings=settings,
    )
    # Its own count of steps takes none twice, but an evaluation comes after the line of its step.
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")
    return self._run.url or f"offline, in {self._run.dir}"

  def write(self, number: int, step: int, time: float, values: Mapping[str, float]) -> None:
    self._run.log({"step": step, **values}, step=number)

  def close(self, status: str) -> None:
    self._run.finish(exit_code=0 if status == "finished" else 1)
