"""Accuracy over a whole split, every example counted exactly once."""

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
  totals = None
  for batch in eval_batches(
    dataset,
    setup.config.data,
    batch_size=batch_size,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  ):
    sums = jax.device_get(setup.eval_step(variables, sharding.put_batch(batch, setup.mesh)))
    # Summed on the host in Python's numbers: float32 stops counting at 16 million.
    sums = jax.tree.map(lambda value: value.item(), sums)
    totals = sums if totals is None else jax.tree.map(lambda a, b: a + b, totals, sums)
  return {
    top_k: {
      "top1": total["top1"] / total["count"],
      "top5": total["top5"] / total["count"],
      "loss": total["loss"] / total["count"],
      "count": total["count"],
    }
    for top_k, total in totals.items()
  }
