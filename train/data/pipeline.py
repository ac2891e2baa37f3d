"""Batches of uint8 images from a data set: the same stream for any number of hosts and threads.

Worker processes import this module: it must not import jax. Grain imports `jax.tree_util` where jax
is installed, hence the imports of Grain inside the functions.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np

from pst_jax.errors import UserError
from train.data.bad_images import BadImageLog, GoodRecords, load_image, require_skip
from train.data.blocks import to_blocks
from train.data.sources import BadImage, Dataset
from train.schema import DataConfig

Batch = dict[str, np.ndarray]
WATCHDOG_SECONDS = 1.0
# Travels with an example to the process that logs: the index of a damaged record, or -1.
BAD = "bad"


def train_batches(
  dataset: Dataset,
  config: DataConfig,
  *,
  seed: int,
  batch_size: int,
  first_step: int,
  host_index: int = 0,
  host_count: int = 1,
) -> Iterator[Batch]:
  """This host's part of every training batch, for ever.

  Each epoch has its own order, with every example once; a batch may span two epochs. The order
  depends on (seed, epoch) alone and the augmentation on (seed, position in the stream), so that the
  batches of all hosts, concatenated by host index, are the same to the bit for any number of hosts,
  threads and workers, and for a start at any `first_step`. `close()` ends its threads and workers.

  Args:
    batch_size: examples of a step over all hosts.
    first_step: the step of the first batch; 0 for a new run.

  Yields:
    image: uint8 [batch_size / host_count, image_size, image_size, 3], RGB, or in blocks with
      `config.space_to_depth`; and the other entries of the task's examples, stacked likewise.

  Raises:
    UserError: batch_size does not divide by host_count or exceeds the split, or seed is negative;
      from the iterator: a record or image is damaged, and `config.on_bad_image` is "raise".
  """
  host_batch = _host_batch(batch_size, host_count)
  if batch_size > dataset.num_train:
    raise UserError(
      f"batch_size is {batch_size}, but the training split has {dataset.num_train} examples: lower"
      " it."
    )
  if seed < 0:
    raise UserError(f"seed is {seed}, but it must be 0 or more.")
  import grain

  stream = (
    grain.MapDataset.range(dataset.num_train)
    .seed(seed)
    .shuffle()
    .repeat()
    .map_with_index(_with_position)
    .random_map(functools.partial(_training_example, dataset, config), seed=_map_seed(seed))
  )
  # A host's part is a run of neighbours in the stream, not a stride: the global batch keeps its
  # order, and BatchNorm groups their members, whatever the number of hosts.
  parts = stream.batch(host_batch, drop_remainder=True)
  damage = BadImageLog(dataset.train, "the next good one takes its place")
  return _read(parts[first_step * host_count + host_index :: host_count], config, damage)


def eval_batches(
  dataset: Dataset,
  config: DataConfig,
  *,
  batch_size: int,
  host_index: int = 0,
  host_count: int = 1,
) -> Iterator[Batch]:
  """This host's part of the evaluation split: over all hosts, every example exactly once.

  Every batch has the same shape and every host the same number of batches; what is missing at the
  end is filled with zeros whose mask is False.

  Args:
    batch_size: examples of a batch over all hosts.

  Yields:
    image and so on: as in `train_batches`.
    mask: bool [batch_size / host_count]; False where the example is padding, or a damaged image
      with `config.on_bad_image` "skip": nothing ever replaces one here, it is not counted.
    position: int32 [batch_size / host_count], the place in the split.

  Raises:
    UserError: batch_size does not divide by host_count; from the iterator: a record or image is
      damaged, and `config.on_bad_image` is "raise".
  """
  host_batch = _host_batch(batch_size, host_count)
  import grain

  padded_length = -(-dataset.num_eval // batch_size) * batch_size
  stream = grain.MapDataset.range(padded_length).map(
    functools.partial(_evaluation_example, dataset, config)
  )
  parts = stream.batch(host_batch, drop_remainder=True)
  damage = BadImageLog(dataset.eval, "it is left out of the evaluation")
  return _read(parts[host_index::host_count], config, damage)


def _host_batch(batch_size: int, host_count: int) -> int:
  if batch_size < 1 or batch_size % host_count:
    raise UserError(
      f"the batch size is {batch_size}, but it must be a positive multiple of {host_count}, the"
      " number of processes."
    )
  return batch_size // host_count


def _map_seed(seed: int) -> int:
  """The seed that Grain gives the third operation after `seed`: runs have always drawn with it."""
  return int(np.random.SeedSequence((seed, 3)).generate_state(1)[0])


def _with_position(position: int, index: int) -> tuple[int, int]:
  return position, index


def _training_example(dataset: Dataset, config: DataConfig, drawn, rng) -> dict:
  """The example at (position, index), and which damaged record was met; the generator is lent."""
  position, index = drawn
  records = GoodRecords(dataset.train, config)
  example = dataset.training_example(records, index, position, rng)
  if config.space_to_depth:
    example["image"] = to_blocks(example["image"])
  return example | {BAD: np.int64(records.bad)}


def _evaluation_example(dataset: Dataset, config: DataConfig, position: int) -> dict:
  """An example, or padding past the end of the split and for a damaged image."""
  example, bad = None, -1
  if position < dataset.num_eval:
    try:
      example = dataset.evaluation_example(load_image(dataset.eval, position, dataset.decode))
    except BadImage as error:
      require_skip(error, config)
      bad = position
  return {
    **(dataset.padding if example is None else example),
    "mask": np.bool_(example is not None),
    "position": np.int32(position),
    BAD: np.int64(bad),
  }


def _read(batches, config: DataConfig, damage: BadImageLog) -> Iterator[Batch]:
  """Iterates a Grain `MapDataset` with threads or worker processes; they end with the iterator."""
  import grain

  # Each thread makes whole batches, and as many batches wait as there are threads.
  stream = batches.to_iter_dataset(
    grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.threads)
  )
  if config.workers:
    _mark_flags_as_parsed()
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=config.workers),
      worker_init_fn=functools.partial(_start_worker, os.getpid()),
    )
  iterator = iter(stream)
  try:
    for batch in iterator:
      damage.note(batch.pop(BAD))
      # A worker's arrays are views of shared memory that goes with them: hand out plain copies.
      yield {name: np.array(array) for name, array in batch.items()} if config.workers else batch
  finally:
    iterator.close()
    damage.close()


def _start_worker(trainer: int, worker_index: int, worker_count: int) -> None:
  """Runs first in a worker process: makes it end when the trainer is gone, even by kill -9."""
  del worker_index, worker_count
  # A scheduler tells every process of a job to end; the trainer still needs batches then.
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  _mark_flags_as_parsed()

  def watch() -> None:
    while os.getppid() == trainer:
      time.sleep(WATCHDOG_SECONDS)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _mark_flags_as_parsed() -> None:
  """Grain and array_record read absl flags, which only a program run by absl's `app` parses."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
