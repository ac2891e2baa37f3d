"""Commands whose weights, data and outputs are all in a bucket do as they do on a disk."""

import dataclasses
import json

import cv2
import jax
import numpy as np
import pytest
from support.quick_jit import OPTIONS
from support.small_weights import MODEL, small_file, small_images
from support.small_weights import OPTIONS as SMALL

import pst_jax
from pst_jax import __main__ as command_line
from pst_jax.buckets import bucket_path, filesystem
from train import evaluate
from train.config import Config, DataConfig, ModelConfig
from train.init_from import initial_values
from train.setup import make_setup

NETWORK = SMALL | {"num_classes": 10}


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
  monkeypatch.setattr("pst_jax.inference.predictions.compiler_options", lambda: OPTIONS)


@pytest.fixture
def weights(tmp_path, folder):
  """The same weights on the disk and in the bucket."""
  path = tmp_path / "w.safetensors"
  small_file(path, options=NETWORK, class_names=list("0123456789"))
  filesystem(bucket_path(folder, "x")).put(str(path), f"{folder}/w.safetensors")
  return path, f"{folder}/w.safetensors"


def test_predict(weights, folder, tmp_path):
  image = tmp_path / "image.png"
  cv2.imwrite(str(image), small_images(1, 48)[0])
  outs = tmp_path / "p.json", f"{folder}/p.json"
  for source, out in zip(weights, outs, strict=True):
    assert command_line.main(["predict", str(source), str(image), "--json", str(out)]) == 0
  found = [json.loads(path.read_text()) for path in (outs[0], bucket_path(outs[1], "x"))]
  assert len(found[0]) == 1
  assert found[0] == found[1]


def test_evaluate(weights, folder, digits_dir, tmp_path):
  filesystem(bucket_path(folder, "x")).put(
    str(digits_dir / "digits"), f"{folder}/digits", recursive=True
  )
  outs = tmp_path / "e.json", f"{folder}/e.json"
  for source, data, out in zip(weights, (digits_dir, folder), outs, strict=True):
    options = f"--dataset digits --data-dir {data} --split test[:50] --top-k 0 --json {out}"
    evaluate.main([str(source), *options.split()])
  found = [json.loads(path.read_text()) for path in (outs[0], bucket_path(outs[1], "x"))]
  assert found[0]["accuracy"] == found[1]["accuracy"]
  assert found[0]["accuracy"][0]["count"] == 50


def test_init_from(weights):
  options = {name: value for name, value in NETWORK.items() if name != "num_classes"}
  config = Config(
    eval_top_k=(0,),
    batch_size=8,
    model=ModelConfig(MODEL, **options),
    data=DataConfig(dataset="synthetic", image_size=16),
  )
  given = []
  for source in weights:
    setup = make_setup(
      dataclasses.replace(config, init_from=str(source)),
      10,
      80,
      jax.devices()[:1],
    )
    given.append(initial_values(setup)[0])
  assert given[0].keys() == given[1].keys()
  assert all(np.array_equal(given[0][name], given[1][name]) for name in given[0])
