"""PyTorch where it is installed: a test that touches it is skipped where it is not."""

import importlib.util

import pytest

needs_torch = pytest.mark.skipif(
  importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


class _Optional:
  """A module that is imported at the first use."""

  def __init__(self, name: str):
    self._name = name

  def __getattr__(self, attribute: str):
    if attribute.startswith(("_", "pytest")):  # asked by pytest, when it collects
      raise AttributeError(attribute)
    return getattr(pytest.importorskip(self._name, exc_type=ImportError), attribute)


torch = _Optional("torch")
twins = _Optional("pst_jax.torch")
