"""Golden values: what the authors' PyTorch code and torchvision computed from `fill` weights."""

import functools
import json
import pathlib

import numpy as np
from support.fill import fill, image

FOLDER = pathlib.Path(__file__).parents[1] / "golden"


@functools.cache
def arrays(name):
  """The arrays of golden/<name>.npz by key, NCHW."""
  with np.load(FOLDER / f"{name}.npz") as file:
    return dict(file)


def manifest(name):
  """[(entry name, shape)] of a PyTorch state dict, in its order."""
  entries = json.loads((FOLDER / "manifest" / f"{name}.json").read_text())
  return [(entry, tuple(shape)) for entry, shape in entries]


def state_dict(name, norm_scale=(0.5, 0.9)):
  """The state dict {entry name: array} that the golden values of `name` were made with."""
  return {entry: fill(entry, shape, norm_scale) for entry, shape in manifest(name)}


def nhwc(array):
  return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def network_input(name, shape):
  """The golden input image called `name`, [B, 3, H, W] turned to [B, H, W, 3]."""
  return nhwc(image(name, shape))


def difference(actual, expected):
  """max |actual - expected| / std(expected): the measure of agreement of the golden values."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape, (actual.shape, expected.shape)
  return np.max(np.abs(actual - expected)) / np.std(expected)
