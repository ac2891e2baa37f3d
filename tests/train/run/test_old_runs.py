"""Runs of commit 8b22a15, whose checkpoints do not say what they are, are read and resumed."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest
from support.quick_jit import FLAGS
from support.run_results import lines

from pst_jax.convert import read_safetensors, read_weights

REPOSITORY = pathlib.Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden" / "runs"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
NAMES = ["pst", "ema"]

# On one device, as the runs were made.
RESUME = """
import dataclasses, sys
from train import loop
from train.run.folder import RunFolder

path, data_dir = sys.argv[1:]
config = RunFolder(path).read_config()
data = dataclasses.replace(config.data, data_dir=data_dir)
loop.train(dataclasses.replace(config, run_dir=path, data=data))
"""


@pytest.fixture
def old_run(tmp_path):
  def unpack(name):
    with tarfile.open(GOLDEN / f"{name}_8b22a15.tar.xz") as archive:
      archive.extractall(tmp_path, filter="data")
    return tmp_path / name

  return unpack


def run(*arguments):
  environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, *map(str, arguments)]
  done = subprocess.run(
    command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


def close(value):
  """Another version of jax rounds differently, and so does another processor."""
  return pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_converts_to_the_same_bits(old_run, tmp_path, name):
  run("-m", "pst_jax", "convert", old_run(name), tmp_path / "w.safetensors")
  tensors, block = read_safetensors(tmp_path / "w.safetensors")
  digest = hashlib.sha256()
  for entry, array in sorted(tensors.items()):
    digest.update(entry.encode() + array.tobytes())
  assert digest.hexdigest() == EXPECTED[name]["converted_sha256"]
  assert (block["step"], block["weights"]) == (16, "ema" if name == "ema" else "params")
  assert block["class_names"] == list("0123456789")
  assert block["preprocessing"]["image_size"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_evaluates_as_it_did(old_run, digits_dir, tmp_path, name):
  found = tmp_path / "found.json"
  options = ["--data-dir", digits_dir, "--json", found]
  run("-m", "train.evaluate", old_run(name), *options)
  accuracy = json.loads(found.read_text())["accuracy"]
  for measured, expected in zip(accuracy, EXPECTED[name]["evaluated"], strict=True):
    assert {key: measured[key] for key in expected} == {k: close(v) for k, v in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_resumes_to_the_same_end(old_run, digits_dir, name):
  folder = old_run(name)
  before = len(lines(folder))
  run("-c", RESUME, folder, digits_dir)
  found, expected = lines(folder)[before:], EXPECTED[name]["resumed"]
  assert [line["step"] for line in found] == [line["step"] for line in expected]
  # Later lines have grown apart where a processor rounds otherwise.
  first = expected[0]
  assert {key: found[0][key] for key in first} == {k: close(v) for k, v in first.items()}
  # What it saves now is of the present form.
  assert (folder / "run_id").is_file()
  weights = read_weights(folder)
  assert (weights.metadata.step, weights.metadata.source) == (45, name)
