"""What two runs are compared by."""

import json
import pathlib

import jax
import numpy as np


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
