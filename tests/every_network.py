"""Names for tests that run over the registry."""

import pytest

import pst_jax


def _slow_if(is_slow):
  return [
    pytest.param(name, marks=pytest.mark.slow) if is_slow(name) else name
    for name in pst_jax.list_models()
  ]


# For tests that trace a network: the depth of 101 adds blocks like those of 50.
EVERY_NETWORK = _slow_if(lambda name: "101" in name)
# For tests that compile its training step too.
EVERY_NETWORK_TRAINED = _slow_if(
  lambda name: name not in ("yolo11n-cls-pst", "resnet18", "resnet18_pst")
)
