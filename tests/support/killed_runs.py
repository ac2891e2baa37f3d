"""Runs of 45 steps on the digits, which a test kills and starts again."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from support import shallow_networks
from support.run_results import bits, lines

from train.run.checkpoints import restore
from train.run.folder import RunFolder
from train.setup import make_setup

REPOSITORY = pathlib.Path(__file__).parents[2]
# 45 steps, with a checkpoint after every ninth.
DIGITS = """configs/digits.py --batch-size 16 --epochs 0.5 --checkpoint.every-epochs 0.1
  --optim.warmup-epochs 0.1
  --eval-every-epochs 0.25 --eval-top-k 0 2 --eval-batch-size 60 --data.eval-split test[:60]
  --model.name shallow_pst --model.width 0.125 --model.dropout 0.1
  --data.image-size 16 --data.max-shift 2 --log-every 1"""

# The same without PST, which takes most of the compilation.
SMALL = DIGITS.replace("shallow_pst", "shallow").replace("--eval-top-k 0 2", "--eval-top-k 0")


def start_digits(
  folder,
  run_dir,
  program=(shallow_networks.__file__, "train"),
  data_dir=None,
  options=DIGITS,
  **environment,
) -> subprocess.Popen:
  """The process of a run whose data are in `folder`."""
  environment = os.environ | {
    "XLA_FLAGS": "",
    "JAX_PLATFORMS": "cpu",
    **environment,
  }
  paths = f"--data.data-dir {data_dir or f'{folder}/data'} --run-dir {run_dir}"
  return subprocess.Popen(
    [sys.executable, *program, *f"{options} {paths}".split()],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process) -> None:
  _, errors = process.communicate(timeout=900)
  assert process.returncode == 0, errors


def wait_for_step(process, run_dir, step) -> None:
  wait_for_line(process, run_dir / "metrics.jsonl", f'"step": {step},')


def wait_for_line(process, path, text) -> None:
  """Waits until the file at a path, which may be one in a bucket, has the text in it."""
  deadline = time.monotonic() + 900
  while text not in (path.read_text() if path.exists() else ""):
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def kill(process) -> None:
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def assert_same_end(whole, other) -> None:
  """Two runs ended with the same lines and, to the bit, the same state."""
  assert lines(other) == lines(whole)
  assert [line["step"] for line in lines(whole) if "loss" in line] == list(range(1, 46))
  states = [last_state(folder) for folder in (whole, other)]
  assert states[0].ema is not None
  assert int(states[0].step) == 45
  for part in ("params", "batch_stats", "ema", "opt_state", "step"):
    one, two = (getattr(state, part) for state in states)
    assert bits(one) == bits(two), part


def last_state(folder):
  folder = RunFolder(folder)
  with pytest.MonkeyPatch.context() as patch:
    shallow_networks.install(patch.setitem)
    setup = make_setup(folder.read_config(), 10, 1437, jax.devices()[:1])
    return restore(folder.checkpoints, setup.abstract_state).state
