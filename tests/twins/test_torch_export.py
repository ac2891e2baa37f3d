"""Exported twins, run without this project's modules, against the Flax networks."""

import functools
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from support import golden_values
from support.fill import fill, image
from support.quick_jit import quick_jit

import pst_jax
from pst_jax import detection
from pst_jax.torch import create_model, export_onnx, export_torchscript

SMALL = {"num_classes": 5, "width": 0.125, "stem": "small"}
SIZES = {"r18-cls-pst": (49, 33), "resnet18_pst": (31, 33), "yolo11n-cls-pst": (32, 32)}


@functools.cache
def network(name):
  """The twin, and the state dict that it holds."""
  twin = create_model(name, **SMALL)
  # Norm scales around 1: with smaller ones YOLO's logits hardly depend on the image.
  values = {
    entry: fill(entry, tuple(value.shape), (0.9, 1.3)) for entry, value in twin.state_dict().items()
  }
  twin.load_state_dict({entry: torch.from_numpy(value) for entry, value in values.items()})
  return twin, values


def images(name):
  return image("export", (3, 3, *SIZES[name]))


@functools.cache
def flax_logits(name, top_k):
  model = pst_jax.create_model(name, top_k=top_k, **SMALL)
  variables = pst_jax.convert.from_torch(model, network(name)[1])
  # Compiled for one call: XLA's optimisations would take longer than they save.
  apply = quick_jit(model.apply)
  return np.asarray(apply(variables, golden_values.nhwc(images(name))))


@pytest.mark.parametrize("top_k", [0, 8])
@pytest.mark.parametrize(
  "name",
  [
    pytest.param("r18-cls-pst", marks=pytest.mark.slow),
    "resnet18_pst",
    pytest.param("yolo11n-cls-pst", marks=pytest.mark.slow),
  ],
)
def test_onnx_file_has_flax_logits_at_any_batch_size(name, top_k, tmp_path):
  path = tmp_path / "network.onnx"
  export_onnx(network(name)[0].set_top_k(top_k), path, SIZES[name])
  session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
  expected = flax_logits(name, top_k)
  for batch in (1, 3):
    (logits,) = session.run(["logits"], {"images": images(name)[:batch]})
    assert golden_values.difference(logits, expected[:batch]) <= 1e-4


@pytest.mark.parametrize("name", SIZES)
def test_torchscript_file_has_flax_logits_at_any_batch_size(name, tmp_path):
  path = tmp_path / "network.ts"
  export_torchscript(network(name)[0].set_top_k(8), path, SIZES[name])
  loaded, expected = torch.jit.load(path), flax_logits(name, 8)
  for batch in (1, 3):
    logits = loaded(torch.from_numpy(images(name)[:batch]))
    assert golden_values.difference(logits, expected[:batch]) <= 1e-4


def test_torchscript_file_refuses_another_image_size(tmp_path):
  export_torchscript(create_model("resnet18_pst", **SMALL), tmp_path / "network.ts", 32)
  loaded = torch.jit.load(tmp_path / "network.ts")
  with pytest.raises(torch.jit.Error, match=r"must be \[batch, 3, 32, 32\]"):
    loaded(torch.zeros(1, 3, 31, 31))


def test_an_exported_network_can_still_be_trained(tmp_path):
  model = create_model("resnet18_pst", **SMALL).train()
  entries = list(model.state_dict())
  export_torchscript(model, tmp_path / "network.ts", 32)
  assert model.training
  assert all(parameter.requires_grad for parameter in model.parameters())
  assert list(model.state_dict()) == entries


@pytest.mark.parametrize(
  ("export", "options", "words"),
  [
    (export_onnx, {"opset": 17}, "opset is 17, but it must be from 18 to 23"),
    (export_onnx, {"image_size": 0}, "image_size is 0, but it must be"),
    (export_torchscript, {"image_size": (32, 32, 3)}, r"image_size is \(32, 32, 3\)"),
    (export_onnx, {"image_size": 16}, "top_k is 8 but the upper map has only 4 tokens"),
    (export_torchscript, {"image_size": 16}, "top_k is 8 but the upper map has only 4 tokens"),
    (export_torchscript, {"path": "no/folder/network.ts"}, "folder .* does not exist"),
  ],
)
def test_a_mistake_is_told_in_one_sentence_and_leaves_no_file(
  export, options, words, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  model = create_model("resnet18_pst", top_k=8, **SMALL)
  with pytest.raises(ValueError, match=words) as error:
    export(model, **{"path": "network", "image_size": 32} | options)
  assert "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_onnx, export_torchscript])
def test_an_existing_file_is_kept(export, tmp_path):
  path = tmp_path / "network"
  path.write_bytes(b"mine")
  with pytest.raises(ValueError, match="this file exists and is kept"):
    export(create_model("resnet18_pst", **SMALL), path, 32)
  assert path.read_bytes() == b"mine"


def test_force_replaces_a_file(tmp_path):
  path = tmp_path / "network.ts"
  path.write_bytes(b"old")
  size = export_torchscript(create_model("resnet18_pst", **SMALL), path, 32, force=True)
  assert path.stat().st_size == size > len(b"old")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(package, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ValueError, match=f"needs {package}, .* pip install 'onnx"):
    export_onnx(create_model("resnet18_pst", **SMALL), tmp_path / "network.onnx", 32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "top_k"), [("yolo11n-pst", 3), ("yolo11n", 0), ("r18-pst", 0)])
def test_the_onnx_file_of_a_detector_has_flax_boxes_and_scores(name, top_k, tmp_path):
  options = {"num_classes": 5, "width": 0.125}
  twin = create_model(name, top_k=top_k, **options)
  model = pst_jax.create_model(name, top_k=top_k, **options)
  state_dict = {entry: value.numpy() for entry, value in twin.state_dict().items()}
  pictures = image("export", (3, 3, 64, 96))
  maps = quick_jit(model.apply)(
    pst_jax.convert.from_torch(model, state_dict), golden_values.nhwc(pictures)
  )
  boxes, scores = (np.asarray(each) for each in detection.decode(maps))
  export_onnx(twin, tmp_path / "detector.onnx", (64, 96))
  session = onnxruntime.InferenceSession(
    tmp_path / "detector.onnx", providers=["CPUExecutionProvider"]
  )
  for batch in (1, 3):
    (found,) = session.run(["detections"], {"images": pictures[:batch]})
    centre, half = found[:, :2], found[:, 2:4] / 2
    corners = np.concatenate([centre - half, centre + half], axis=1).swapaxes(1, 2)
    assert golden_values.difference(corners, boxes[:batch]) <= 1e-4
    np.testing.assert_allclose(found[:, 4:].swapaxes(1, 2), scores[:batch], atol=1e-5)
