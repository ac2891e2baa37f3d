"""Accuracy over a whole split, every example counted exactly once."""

import functools
import operator

import jax

from train import sharding
from train.data import Dataset, eval_batches
from train.setup import Setup


def evaluate(setup: Setup, variables: dict, dataset: Dataset) -> dict[int, dict[str, float]]:
  """Accuracy for every top_k of the config in one pass over the data.

  Args:
    setup: the run.
    variables: {"params", "batch_stats"} as `TrainState.eval_variables`.
    dataset: its evaluation split is used.

  Returns:
    By top_k: "top1", "top5" (shares from 0 to 1), "loss" (mean) and "count".
  """
  # The last rows of a batch may be padding, so any size can be rounded up to what devices divide.
  devices = setup.mesh.size
  batch_size = -(-setup.config.eval_batch_size // devices) * devices
  batches = eval_batches(
    dataset,
    setup.config.data,
    batch_size=batch_size,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )
  sums = (setup.eval_step(variables, sharding.put_batch(batch, setup.mesh)) for batch in batches)
  totals = functools.reduce(_add, _one_behind(sums))
  return {
    top_k: {
      "top1": total["top1"] / total["count"],
      "top5": total["top5"] / total["count"],
      "loss": total["loss"] / total["count"],
      "count": total["count"],
    }
    for top_k, total in totals.items()
  }


def _one_behind(sums):
  """On the host, each when the devices work on the next one already."""
  last = None
  for newest in sums:
    if last is not None:
      yield _numbers(last)
    last = newest
  yield _numbers(last)


def _numbers(sums):
  """As Python's numbers: sums in float32 stop counting at 16 million."""
  return jax.tree.map(lambda value: value.item(), jax.device_get(sums))


def _add(totals, sums):
  return jax.tree.map(operator.add, totals, sums)
