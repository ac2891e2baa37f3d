"""The wheel: what is in it, and that it works far from the clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import pst_jax

REPOSITORY = pathlib.Path(__file__).parents[1]


def run(*command, cwd, **environment):
  return subprocess.run(
    list(map(str, command)),
    cwd=cwd,
    env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  folder = tmp_path_factory.mktemp("wheel")
  clone = folder / "clone"
  for name in ("pst_jax", "train", "configs", "tools"):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / name, clone / name, ignore=ignored)
  for name in ("pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(REPOSITORY / name, clone)
  pip = sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"
  result = run(*pip, "--wheel-dir", folder, clone, cwd=folder)
  assert result.returncode == 0, result.stderr
  return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
  """A folder of packages in which the library is, as pip put it there."""
  folder = tmp_path_factory.mktemp("packages")
  pip = sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder
  result = run(*pip, wheel, cwd=folder)
  assert result.returncode == 0, result.stderr
  return folder


@pytest.fixture
def elsewhere(tmp_path):
  """An empty folder but for a `train.py` of the user's own, which must not be run."""
  (tmp_path / "train.py").write_text("raise SystemExit('the train.py of the user was run')\n")
  return tmp_path


def test_the_wheel_holds_every_file_of_the_library_and_nothing_else(wheel):
  names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
  expected = {
    path.relative_to(REPOSITORY).as_posix()
    for path in (REPOSITORY / "pst_jax").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
  }
  assert names == expected


def test_the_console_script_runs_where_the_user_has_a_train_py(installed, elsewhere):
  script = installed / "bin" / "pst_jax"
  version = run(script, "--version", cwd=elsewhere, PYTHONPATH=str(installed))
  assert (version.stdout, version.stderr) == (f"pst_jax {pst_jax.__version__}\n", "")
  models = run(script, "models", "resnet18", cwd=elsewhere, PYTHONPATH=str(installed))
  assert "11,689,512" in models.stdout


def test_a_command_of_the_installed_library_works_there(installed, elsewhere):
  # Weights written, and looked at, by the library of the wheel.
  write = """
import jax, jax.numpy as jnp, pst_jax
from pst_jax.convert import Metadata, Weights, write_weights
assert pst_jax.__file__.startswith(%r), pst_jax.__file__
options = {"num_classes": 3, "stem": "small", "width": 0.125}
model = pst_jax.create_model("resnet18", **options)
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
write_weights("w.safetensors", Weights(variables, Metadata("resnet18", options, "a test")))
"""
  source = write % str(installed)
  result = run(sys.executable, "-c", source, cwd=elsewhere, PYTHONPATH=str(installed))
  assert result.returncode == 0, result.stderr
  command = sys.executable, "-m", "pst_jax", "inspect", "w.safetensors"
  result = run(*command, cwd=elsewhere, PYTHONPATH=str(installed))
  assert (result.returncode, result.stderr) == (0, "")
  assert "resnet18, 3 classes, stem small, width 0.125" in result.stdout
