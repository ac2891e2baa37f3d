"""kill -9 at any moment of a run changes nothing of what it ends with."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import pytest
from support.run_results import bits, lines

from train.run.checkpoints import restore
from train.run.folder import RunFolder
from train.setup import make_setup

REPOSITORY = pathlib.Path(__file__).parents[2]
# 45 steps, with a checkpoint after every ninth.
DIGITS = """configs/digits.py --batch-size 16 --epochs 0.5 --checkpoint.every-epochs 0.1
  --optim.warmup-epochs 0.1
  --eval-every-epochs 0.25 --eval-top-k 0 2 --eval-batch-size 60 --data.eval-split test[:60]
  --model.width 0.125 --model.dropout 0.1 --data.image-size 16 --data.max-shift 2 --log-every 1"""


def start_digits(folder, run_dir) -> subprocess.Popen:
  # Kept compilations let all but the first start begin within seconds.
  environment = os.environ | {
    "XLA_FLAGS": "",
    "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  paths = f"--data.data-dir {folder}/data --run-dir {run_dir}"
  return subprocess.Popen(
    [sys.executable, "-m", "train", *f"{DIGITS} {paths}".split()],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process) -> None:
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 0, errors


def wait_for_step(process, run_dir, step) -> None:
  deadline = time.monotonic() + 300
  path = run_dir / "metrics.jsonl"
  while f'"step": {step},' not in (path.read_text() if path.exists() else ""):
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_that_was_not(tmp_path):
  rng = random.Random(0)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  finish(start_digits(tmp_path, whole))
  for step in (rng.randrange(1, 12), rng.randrange(16, 26), rng.randrange(30, 38)):
    process = start_digits(tmp_path, killed)
    try:
      wait_for_step(process, killed, step)
      time.sleep(rng.uniform(0, 0.1))
    finally:
      process.send_signal(signal.SIGKILL)
      process.communicate()
    assert process.returncode == -signal.SIGKILL
  finish(start_digits(tmp_path, killed))

  assert lines(killed) == lines(whole)
  assert [line["step"] for line in lines(whole) if "loss" in line] == list(range(1, 46))
  states = [last_state(folder) for folder in (whole, killed)]
  assert states[0].ema is not None
  assert int(states[0].step) == 45
  for part in ("params", "batch_stats", "ema", "opt_state", "step"):
    one, two = (getattr(state, part) for state in states)
    assert bits(one) == bits(two), part


def last_state(folder):
  folder = RunFolder(folder)
  setup = make_setup(folder.read_config(), 10, 1437, jax.devices()[:1])
  return restore(folder.checkpoints, setup.abstract_state).state
