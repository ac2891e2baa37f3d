import importlib.abc
import importlib.util
import sys

import pytest


class _Skips(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name == "torch":
      pytest.skip("PyTorch is not installed")


@pytest.fixture(autouse=importlib.util.find_spec("torch") is None)
def skip_what_needs_pytorch(monkeypatch):
  """A test in which the library imports PyTorch, where it is not installed, is skipped."""
  monkeypatch.setattr(sys, "meta_path", [_Skips(), *sys.meta_path])
