"""Batches of uint8 images from a data set: the same stream for any number of hosts and threads.

Worker processes import this module: it must not import jax. Grain imports `jax.tree_util` where jax
is installed, hence the imports of Grain inside the functions.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from train.config import ConfigError, DataConfig
from train.data import images
from train.data.damage import DamageLog, load_image, load_next_good, require_skip
from train.data.sources import BadImage, Dataset

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
    image: uint8 [batch_size / host_count, image_size, image_size, 3], RGB.
    label: int32 [batch_size / host_count].

  Raises:
    ConfigError: batch_size does not divide by host_count or exceeds the split, or seed is negative;
      from the iterator: a record or image is damaged, and `config.on_bad_image` is "raise".
  """
  host_batch = _host_batch(batch_size, host_count)
  if batch_size > dataset.num_train:
    raise ConfigError(
      f"batch_size is {batch_size}, but the training split has {dataset.num_train} examples: lower"
      " it."
    )
  if seed < 0:
    raise ConfigError(f"seed is {seed}, but it must be 0 or more.")
  import grain

  stream = (
    grain.MapDataset.range(dataset.num_train)
    .seed(seed)
    .shuffle()
    .repeat()
    .random_map(TrainingExample(dataset.train, config))
  )
  # A host's part is a run of neighbours in the stream, not a stride: the global batch keeps its
  # order, and BatchNorm groups their members, whatever the number of hosts.
  parts = stream.batch(host_batch, drop_remainder=True)
  damage = DamageLog(dataset.train, "the next good one takes its place")
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
    image, label: as in `train_batches`.
    mask: bool [batch_size / host_count]; False where the example is padding, or a damaged image
      with `config.on_bad_image` "skip": nothing ever replaces one here, it is not counted.

  Raises:
    ConfigError: batch_size does not divide by host_count; from the iterator: a record or image is
      damaged, and `config.on_bad_image` is "raise".
  """
  host_batch = _host_batch(batch_size, host_count)
  import grain

  padded_length = -(-dataset.num_eval // batch_size) * batch_size
  stream = grain.MapDataset.range(padded_length).map(EvaluationExample(dataset.eval, config))
  parts = stream.batch(host_batch, drop_remainder=True)
  damage = DamageLog(dataset.eval, "it is left out of the evaluation")
  return _read(parts[host_index::host_count], config, damage)


def _host_batch(batch_size: int, host_count: int) -> int:
  if batch_size < 1 or batch_size % host_count:
    raise ConfigError(
      f"the batch size is {batch_size}, but it must be a positive multiple of {host_count}, the"
      " number of processes."
    )
  return batch_size // host_count


@dataclass(frozen=True)
class TrainingExample:
  """(index, generator) -> decoded and augmented example.

  What replaces a damaged image depends on its index alone, and the generator on the position in the
  stream: the stream stays the same for any number of hosts, threads and workers.
  """

  records: Sequence[dict]
  config: DataConfig

  def __call__(self, index: int, rng: np.random.Generator) -> dict:
    bad = -1
    try:
      image, label = load_image(self.records, index)
    except BadImage as error:
      require_skip(error, self.config)
      bad = index
      image, label = load_next_good(self.records, index)
    image = images.training_image(image, rng, self.config)
    return {"image": image, "label": np.int32(label), BAD: np.int64(bad)}


@dataclass(frozen=True)
class EvaluationExample:
  """position -> decoded and cropped example, or zeros past the end of the split."""

  records: Sequence[dict]
  config: DataConfig

  def __call__(self, position: int) -> dict:
    size, bad = self.config.image_size, -1
    image, label, counts = np.zeros((size, size, 3), np.uint8), 0, False
    if position < len(self.records):
      try:
        image, label = load_image(self.records, position)
        image, counts = images.evaluation_crop(image, self.config), True
      except BadImage as error:
        require_skip(error, self.config)
        bad = position
    return {
      "image": image,
      "label": np.int32(label),
      "mask": np.bool_(counts),
      BAD: np.int64(bad),
    }


def _read(batches, config: DataConfig, damage: DamageLog) -> Iterator[Batch]:
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
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
