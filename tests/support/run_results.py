"""What two runs are compared by."""

import json
import pathlib

import jax
import numpy as np

from train.run.checkpoints import restore
from train.run.folder import RunFolder
from train.setup import make_setup


def is_timing(name):
  known = ("images_per_second", "model_flops_utilization", "device_memory_peak_bytes")
  return name in known or name.endswith("_seconds")


def bits(tree):
  return [
    (jax.tree_util.keystr(path), np.asarray(leaf).dtype, np.asarray(leaf).tobytes())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def lines(folder) -> list[dict]:
  """metrics.jsonl without what depends on the clock."""
  text = (pathlib.Path(folder) / "metrics.jsonl").read_text()
  return [
    {name: value for name, value in json.loads(line).items() if not is_timing(name)}
    for line in text.splitlines()
  ]


def last_state(folder, step: int = 15):
  """Of the last step of a run of `run_processes.TINY`, as numpy arrays."""
  folder = RunFolder(folder)
  with jax.enable_x64(True):
    setup = make_setup(folder.read_config(), 4, 41, jax.devices()[:1])
    restored = restore(folder.checkpoints, setup.abstract_state)
    assert restored.step == step
    return jax.device_get(restored.state)


def assert_close(actual, expected):
  """Equal but for the order of sums in float64."""
  for (path, a), e in zip(
    jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    # Some momenta are zero but for rounding, of a bias whose output BatchNorm centres again.
    scale = max(np.max(np.abs(e)), 1e-5)
    assert np.max(np.abs(a - e)) <= 1e-10 * scale, jax.tree_util.keystr(path)
