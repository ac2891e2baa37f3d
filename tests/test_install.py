import importlib.metadata

from pst_jax.install import how_to_install


def test_a_package_is_named_with_the_versions_that_the_library_takes(monkeypatch):
  lines = ["jax>=0.10", 'torch<3,>=2.6; extra == "torch"', 'torch>=2.9; extra == "test"']
  monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
  assert how_to_install("torch", "libtpu") == "pip install 'torch<3,>=2.6' libtpu"


def test_without_the_librarys_own_metadata_the_names_are_enough(monkeypatch):
  def requires(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "requires", requires)
  assert how_to_install("torch", "onnx") == "pip install torch onnx"
