"""The images that a study looks at."""

from collections.abc import Iterator

import numpy as np

from train.data import Dataset, eval_batches
from train.schema import Config
from train.tasks import registry


def first_images(count: int, config: Config, dataset: Dataset, dtype) -> Iterator[tuple]:
  """(images as the network takes them, their positions, a mask) of the first of the split.

  In batches of one size; what is beyond `count`, or padding, is masked.
  """
  task, left = registry.find(config.task), count
  for batch in eval_batches(dataset, config.data, batch_size=min(config.eval_batch_size, count)):
    mask = batch["mask"] & (np.cumsum(batch["mask"]) <= left)
    left -= int(mask.sum())
    yield task.eval_images(batch, config, dtype), batch["position"], mask
    if left <= 0:
      return
