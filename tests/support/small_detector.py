"""Weights of a small detector that finds something, and files of them, made without training."""

import numpy as np
from support.tiny_weights import state_dict

import pst_jax
from pst_jax.convert import Metadata, Weights, from_torch, write_weights

MODEL, OPTIONS = "yolo11n-pst", {"num_classes": 3, "width": 0.25}
SIZE = 64
"""Of the images: the two PST modules have 4 and 16 coarse tokens."""


def detector_weights(model=MODEL, options=OPTIONS, **facts):
  network = pst_jax.create_model(model, **options)
  variables = from_torch(network, state_dict(model, **options))
  facts = {"source": "nowhere", "preprocessing": {"image_size": SIZE}, **facts}
  return Weights(variables, Metadata(model, options, task="detection", **facts))


def detector_file(path, **facts):
  write_weights(path, detector_weights(**facts))
  return str(path)


def pictures(count, height=50, width=80):
  return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
