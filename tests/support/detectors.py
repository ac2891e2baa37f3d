"""Weights and targets behind the golden values of detection."""

import numpy as np
from support import golden_values

from pst_jax import detection

FOLDER = golden_values.FOLDER


def detector_state_dict(name):
  """`golden_values.state_dict`, with the numbers of the bins in their place."""
  state_dict = golden_values.state_dict(name)
  (bins,) = [entry for entry in state_dict if ".dfl." in entry]
  return state_dict | {bins: np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)}


def golden_targets(golden, prefix, batch, height, width, size=None, dtype=np.float32):
  """Targets padded to `size` boxes (None: as many as the fullest image has)."""
  images, classes, boxes = (golden[f"{prefix}{key}"] for key in ("batch_idx", "cls", "bboxes"))
  counts = np.bincount(images, minlength=batch)
  size = counts.max() if size is None else size
  table = detection.Targets(
    np.zeros((batch, size, 4), dtype), np.zeros((batch, size), int), np.zeros((batch, size), bool)
  )
  boxes = boxes.astype(dtype) * np.array([width, height, width, height], dtype)
  corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
  for image in range(batch):
    mine = images == image
    for values, column in ((corners, table.boxes), (classes, table.classes), (True, table.valid)):
      column[image, : counts[image]] = values[mine] if values is not True else True
  return table


def box_targets(batch, size, count=3, padding=2, classes=5, seed=0):
  """Random boxes inside square images; the last image has none."""
  rng = np.random.default_rng(seed)
  corner = rng.uniform(0, 0.6 * size, (batch, count + padding, 2))
  sides = rng.uniform(0.15 * size, 0.4 * size, (batch, count + padding, 2))
  valid = np.broadcast_to(np.arange(count + padding) < count, (batch, count + padding)).copy()
  valid[-1] = False
  boxes = np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)
  return detection.Targets(boxes, rng.integers(0, classes, valid.shape), valid)
