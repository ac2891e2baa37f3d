"""Names for tests that run over the registry, and small forms of its networks."""

import jax
import numpy as np
import pytest

import pst_jax
from pst_jax import models

CLASSIFIERS = [n for n in pst_jax.list_models() if models.task_of(n) == "classification"]
DETECTORS = [n for n in pst_jax.list_models() if models.task_of(n) == "detection"]


# For tests that trace a classifier: the depth of 101 adds blocks like those of 50.
EVERY_NETWORK = [
  pytest.param(name, marks=pytest.mark.slow) if "101" in name else name for name in CLASSIFIERS
]
# For tests that compile its training step too: others add depth or width to these.
TRAINED = ("yolo11n-cls-pst", "resnet18", "resnet18_pst")
EVERY_NETWORK_TRAINED = [
  *TRAINED,
  pytest.param("r50-cls-pst", marks=pytest.mark.slow),
  *(
    pytest.param(name, marks=pytest.mark.exhaustive)
    for name in CLASSIFIERS
    if name not in (*TRAINED, "r50-cls-pst")
  ),
]

NARROW = {"num_classes": 5, "width": 0.125}
SMALL = NARROW | {"stem": "small"}
# One of each family with PST; the tests that run over these ask about code of the families.
FAMILIES = ["r18-cls-pst", "yolo11n-cls-pst", "resnet18_pst"]


def pictures(height, width, batch=4):
  return np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)


def shapes(model, images, **arguments):
  """Shapes of what `model` returns, and of its variables; nothing is computed."""
  keys = {name: jax.random.key(0) for name in ("params", "dropout", "selection")}
  return jax.eval_shape(lambda x: model.init_with_output(keys, x, **arguments), images)
