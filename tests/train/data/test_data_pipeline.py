import dataclasses
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pst_jax.errors import UserError
from train.data import eval_batches, train_batches
from train.tasks.classification.data import open_dataset

REPOSITORY = pathlib.Path(__file__).parents[3]
BATCH = 8
STEPS = 7  # more than two epochs of the 23 examples of `tiny`


def take(iterator, count):
  batches = list(itertools.islice(iterator, count))
  iterator.close()
  return batches


def stream(config, *, steps=STEPS, seed=5, first_step=0, host_count=1):
  """Global batches of `tiny`: the parts of all hosts, concatenated by host index."""
  dataset = open_dataset(config)
  hosts = [
    take(
      train_batches(
        dataset,
        config,
        seed=seed,
        batch_size=BATCH,
        first_step=first_step,
        host_index=host,
        host_count=host_count,
      ),
      steps,
    )
    for host in range(host_count)
  ]
  return [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]


def assert_same(batches, expected):
  assert len(batches) == len(expected)
  for got, wanted in zip(batches, expected, strict=True):
    for name in wanted:
      np.testing.assert_array_equal(got[name], wanted[name])


def test_images_in_blocks_have_the_same_pixels(tiny_config):
  blocks = stream(dataclasses.replace(tiny_config, space_to_depth=True), steps=1)
  (expected,) = stream(tiny_config, steps=1)
  image = expected["image"]
  assert blocks[0]["image"].shape == (BATCH, image.shape[1] // 2, image.shape[2] // 2, 12)
  for channel, (row, column, color) in enumerate(np.ndindex(2, 2, 3)):
    pixels = image[:, row::2, column::2, color]
    np.testing.assert_array_equal(blocks[0]["image"][..., channel], pixels)


@pytest.mark.parametrize("host_count", [2, 4])
def test_hosts_together_read_the_stream_of_one_host(tiny_config, host_count):
  assert_same(stream(tiny_config, host_count=host_count), stream(tiny_config))


def test_a_run_goes_on_with_the_stream_of_earlier_versions(numbered):
  """Place, image and random number of four examples, as commit 8d82857 drew them."""
  dataset, config = numbered(23)
  dataset = dataclasses.replace(
    dataset,
    training_example=lambda records, index, position, rng: {
      "drawn": np.array([position, index, rng.integers(1000)])
    },
  )
  batches = train_batches(dataset, config, seed=5, batch_size=4, first_step=6)
  (batch,) = take(batches, 1)
  expected = [[24, 6, 205], [25, 10, 52], [26, 5, 234], [27, 12, 717]]
  np.testing.assert_array_equal(batch["drawn"], expected)


@pytest.mark.parametrize(("first_step", "host_count"), [(1, 1), (4, 1), (3, 2)])
def test_a_restart_goes_on_with_the_same_stream(tiny_config, first_step, host_count):
  resumed = stream(
    tiny_config, steps=STEPS - first_step, first_step=first_step, host_count=host_count
  )
  assert_same(resumed, stream(tiny_config)[first_step:])


def test_a_restart_at_a_late_step_does_not_read_what_came_before(tiny_config):
  batches = stream(tiny_config, steps=2, first_step=10**9)
  assert_same(batches[1:], stream(tiny_config, steps=1, first_step=10**9 + 1))


def test_threads_do_not_change_the_stream(tiny_config):
  one, eight = (dataclasses.replace(tiny_config, threads=threads) for threads in (1, 8))
  assert_same(stream(eight), stream(one))


def test_worker_processes_do_not_change_the_stream(tiny_config):
  assert_same(stream(dataclasses.replace(tiny_config, workers=2)), stream(tiny_config))


def test_another_seed_gives_another_stream(tiny_config):
  labels = [np.concatenate([b["label"] for b in stream(tiny_config, seed=seed)]) for seed in (0, 1)]
  assert not np.array_equal(*labels)


def test_types_and_shapes_of_a_training_batch(tiny_config):
  (batch,) = stream(tiny_config, steps=1)
  assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
    "image": ((BATCH, 16, 16, 3), "uint8"),
    "label": ((BATCH,), "int32"),
  }


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(numbered):
  dataset, config = numbered(12)
  batches = train_batches(dataset, config, seed=0, batch_size=4, first_step=0)
  epochs = np.concatenate([batch["label"] for batch in take(batches, 9)]).reshape(3, 12)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), [np.arange(12)] * 3)
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_images_stay_with_their_labels(numbered):
  dataset, config = numbered(12)
  (batch,) = take(train_batches(dataset, config, seed=0, batch_size=12, first_step=0), 1)
  np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_an_example_is_augmented_anew_in_every_epoch(tiny_config):
  config = dataclasses.replace(tiny_config, train_split="train[:1]", flip=False)
  batches = train_batches(open_dataset(config), config, seed=0, batch_size=1, first_step=0)
  first, second = take(batches, 2)
  assert not np.array_equal(first["image"], second["image"])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 24}, "batch_size is 24, but the training split has 23 examples"),
    (
      {"batch_size": 9, "host_count": 2},
      "must be a positive multiple of 2, the number of processes",
    ),
    ({"batch_size": 0}, "must be a positive multiple"),
    ({"batch_size": 8, "seed": -1}, "seed is -1"),
  ],
)
def test_an_impossible_batch_is_refused(tiny_config, options, message):
  with pytest.raises(UserError, match=message):
    train_batches(open_dataset(tiny_config), tiny_config, **{"seed": 0, "first_step": 0, **options})


@pytest.mark.parametrize("count", [1, 8, 23, 25])
@pytest.mark.parametrize("host_count", [1, 2, 4])
def test_evaluation_counts_each_example_once_over_all_hosts(numbered, count, host_count):
  dataset, config = numbered(count)
  hosts = [
    list(eval_batches(dataset, config, batch_size=BATCH, host_index=host, host_count=host_count))
    for host in range(host_count)
  ]
  assert {len(batches) for batches in hosts} == {-(-count // BATCH)}
  batches = list(itertools.chain(*hosts))
  assert {batch["image"].shape for batch in batches} == {(BATCH // host_count, 8, 8, 3)}
  counted = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
  assert sorted(counted) == list(range(count))


def test_padding_of_evaluation_is_zero(numbered):
  dataset, config = numbered(5)
  (batch,) = eval_batches(dataset, config, batch_size=BATCH)
  np.testing.assert_array_equal(batch["mask"], [True] * 5 + [False] * 3)
  assert not batch["image"][5:].any()
  assert not batch["label"][5:].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(numbered, workers):
  dataset, config = numbered(8, workers=workers)
  dataset.train[3]["image"] = dataset.train[3]["image"][:-30]
  with pytest.raises(UserError, match=r"the image of record 3 is damaged"):
    take(train_batches(dataset, config, seed=0, batch_size=4, first_step=0), 2)
  with pytest.raises(UserError, match=r"the image of record 3 is damaged"):
    list(eval_batches(dataset, config, batch_size=4))


def test_modules_that_workers_import_do_not_import_jax():
  code = "import sys, train.tasks.classification.data, train.config; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 0


READER = """
import sys
from train.config import DataConfig
from train.data import train_batches
from train.tasks.classification.data import open_dataset

if __name__ == "__main__":
  config = DataConfig(dataset="synthetic", image_size=64, workers=int(sys.argv[1]))
  batches = train_batches(open_dataset(config), config, seed=0, batch_size=64, first_step=0)
  next(batches)
  print("ready", flush=True)
  if sys.argv[2] == "wait":
    sys.stdin.read()
"""


@pytest.fixture
def start_reader(tmp_path):
  """Starts a process that reads one batch and then ends, or waits for its standard input."""
  script = tmp_path / "reader.py"
  script.write_text(READER)
  processes = []

  def start(*arguments):
    process = subprocess.Popen(
      [sys.executable, script, *arguments],
      env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    processes.append(process)
    assert process.stdout.readline() == b"ready\n"
    return process

  yield start
  for process in processes:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_iterator_left_open_does_not_hinder_exit(start_reader, workers):
  assert start_reader(workers, "end").wait(timeout=20) == 0


def test_workers_end_when_the_trainer_is_killed(start_reader):
  reader = start_reader("1", "wait")
  tasks = pathlib.Path(f"/proc/{reader.pid}/task").iterdir()
  spawned = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
  assert spawned
  reader.send_signal(signal.SIGKILL)
  reader.wait()
  deadline = time.monotonic() + 20
  while time.monotonic() < deadline and any(map(is_running, spawned)):
    time.sleep(0.1)
  left = [pid for pid in spawned if is_running(pid)]
  for pid in left:
    os.kill(pid, signal.SIGKILL)
  assert not left


def is_running(pid):
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except OSError:
    return False
  return state != "Z"  # a container without a reaping init keeps the dead as zombies
