"""The metrics of a whole split, every example counted exactly once."""

from typing import Any

import jax

from pst_jax.inference.predictor import has_pst
from train import sharding
from train.data import Dataset, eval_batches
from train.setup import EvalSetup, Setup


def evaluate(setup: EvalSetup, variables: dict, dataset: Dataset) -> dict[str, dict[str, float]]:
  """What the task's `compute` returns, by the names of `config.evals`, in one pass over the data.

  Args:
    setup: the run, or the evaluation.
    variables: {"params", "batch_stats"} as `TrainState.eval_variables`.
    dataset: its evaluation split is used.
  """
  return metrics_of(setup, measure(setup, variables, dataset))


def metrics_of(setup: EvalSetup, totals: dict[str, Any]) -> dict[str, dict[str, float]]:
  """The metrics of what `measure` returned."""
  return {name: setup.task.compute(total, setup.config) for name, total in totals.items()}


def measure(setup: EvalSetup, variables: dict, dataset: Dataset) -> dict[str, Any]:
  """All that the task measures of the split, by the names of `config.evals`; see `evaluate`.

  What the devices measure of a batch comes to every process whole, so that each adds up the same.
  """
  config, task = setup.config, setup.task
  # The last rows of a batch may be padding, so any size can be rounded up to what devices divide.
  devices = setup.mesh.size
  batch_size = -(-config.eval_batch_size // devices) * devices
  batches = eval_batches(
    dataset,
    config.data,
    batch_size=batch_size,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )
  placed = (sharding.put_batch(batch, setup.mesh) for batch in batches)
  totals = dict.fromkeys(config.evals)
  for batch in _one_behind(setup.eval_step(variables, batch) for batch in placed):
    totals = {name: task.update(total, batch[name]) for name, total in totals.items()}
  return totals


def top_k_notes(setup: Setup) -> list[str]:
  """A sentence where `top_k` asks for a fine branch that the network does not have."""
  config = setup.config
  asked = [config.model.top_k, *(each.top_k for each in config.evals.values())]
  if not any(asked) or has_pst(setup.abstract_state.params):
    return []
  return [f"{config.model.name} has no PST module: top_k plays no part, whatever it is"]


def _one_behind(measured):
  """On the host, each when the devices work on the next one already."""
  last = None
  for newest in measured:
    if last is not None:
      yield jax.device_get(last)
    last = newest
  yield jax.device_get(last)
