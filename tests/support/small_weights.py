"""Weights of a small network with PST, and files of them, made without training."""

import numpy as np
from support.random_variables import random_variables

import pst_jax
from pst_jax.convert import Metadata, Weights, write_weights

MODEL, OPTIONS = "resnet18_pst", {"num_classes": 3, "stem": "small", "width": 0.125}
PREPROCESSING = {
  "image_size": 16,
  "eval_crop": 0.5,
  "mean": [0.1, 0.2, 0.3],
  "std": [0.4, 0.5, 0.6],
}


def small_weights(model=MODEL, options=OPTIONS, **facts):
  network = pst_jax.create_model(model, **options)
  variables = random_variables(network, np.zeros((1, 32, 32, 3), np.float32))
  facts = {"source": "nowhere", "preprocessing": PREPROCESSING, **facts}
  return Weights(variables, Metadata(model, options, **facts))


def small_file(path, **facts):
  write_weights(path, small_weights(**facts))
  return str(path)


def small_images(count, size=16):
  return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
