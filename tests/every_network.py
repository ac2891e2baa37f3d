"""Names for tests that run over the registry."""

import pytest

import pst_jax

# The depth of 101 adds blocks like those of 50, and minutes.
EVERY_NETWORK = [
  pytest.param(name, marks=pytest.mark.slow) if "101" in name else name
  for name in pst_jax.list_models()
]
