"""pst_jax export --format onnx and torchscript: plain images in, the network's own answers out."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.quick_jit import quick_jit
from support.small_detector import SIZE, detector_file, detector_weights, pictures
from support.small_weights import PREPROCESSING, small_file, small_images, small_weights

from pst_jax import __main__ as command_line
from pst_jax.commands.export import FORMATS
from pst_jax.inference import stablehlo
from pst_jax.inference.detector import Detector
from pst_jax.inference.predictor import normalize

TEXTS = ("class_names", "facts")
FORMS = ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)]


def export(*arguments):
  return command_line.main(["export", *map(str, arguments)])


class File:
  """An exported file, run and read by what its users have."""

  def __init__(self, path):
    if path.suffix == ".onnx":
      session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
      self.run = lambda images: session.run(None, {"images": images})
      self.texts = {each.key: each.value for each in onnx.load(path).metadata_props}
    else:
      self.texts = dict.fromkeys(TEXTS, "")
      network = torch.jit.load(path, _extra_files=self.texts)
      self.run = lambda images: _arrays(network(torch.from_numpy(images)))


def _arrays(outputs):
  return [each.numpy() for each in (outputs if isinstance(outputs, tuple) else (outputs,))]


@pytest.fixture(scope="module")
def file(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("export")
  small_file(folder / "w.safetensors", class_names=("a", "b", "grün"), step=7)
  dest = folder / {"onnx": "network.onnx", "torchscript": "network.pt"}[request.param]
  code = export(folder / "w.safetensors", dest, "--format", request.param, "--top-k", 2)
  assert code == 0
  return File(dest)


@pytest.mark.parametrize("file", FORMS, indirect=True)
def test_the_file_gives_the_networks_logits_for_plain_images(file):
  images = small_images(3)
  weights = small_weights()
  prepared = normalize(images, PREPROCESSING["mean"], PREPROCESSING["std"], np.float32)
  expected = quick_jit(weights.network(top_k=2).apply)(weights.variables, prepared)
  tolerance = 1e-4 * np.abs(expected).max()
  for batch in (1, 3):
    (logits,) = file.run(images[:batch])
    np.testing.assert_allclose(logits, expected[:batch], rtol=0, atol=tolerance)


@pytest.mark.parametrize("file", FORMS, indirect=True)
def test_class_names_and_facts_are_inside(file):
  assert json.loads(file.texts["class_names"]) == ["a", "b", "grün"]
  facts = json.loads(file.texts["facts"])
  assert (facts["model"], facts["top_k"], facts["step"]) == ("resnet18_pst", 2, 7)
  assert facts["preprocessing"] == PREPROCESSING


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_the_file_of_a_detector_finds_what_flax_finds(tmp_path, form):
  source = detector_file(tmp_path / "w.safetensors")
  dest = tmp_path / {"onnx": "d.onnx", "torchscript": "d.ts"}[form]
  limits = "--score", 0.52, "--iou", 0.6
  assert export(source, dest, "--format", form, "--top-k", 2, *limits) == 0
  images = pictures(3, SIZE, SIZE)
  detector = Detector.from_weights(
    detector_weights(), top_k=2, score_threshold=0.52, iou_threshold=0.6
  )
  expected = quick_jit(detector.run)(detector.variables, images)
  assert 3 < np.sum(expected.valid[0]) < 100
  found = dict(zip(("boxes", "scores", "classes", "valid"), File(dest).run(images), strict=True))
  for name, tolerance in {"valid": 0, "classes": 0, "boxes": 1e-2, "scores": 1e-5}.items():
    np.testing.assert_allclose(found[name], getattr(expected, name), atol=tolerance, rtol=0)


def test_the_formats_of_the_command_are_those_of_the_library():
  assert tuple(stablehlo.FORMS) == FORMATS


@pytest.mark.parametrize(
  ("name", "options", "said"),
  [
    ("m.onnx", ["torchscript"], "the file will be TorchScript, which .onnx is not the ending of"),
    ("m.ts", ["onnx"], "give a name such as m.onnx, or --format torchscript"),
    ("m.ts", ["torchscript", "--platforms", "cpu"], "--platforms is for stablehlo"),
    ("m.ts", ["torchscript", "--top-k", "9"], "has 4: choose top_k between 0 and 4"),
    ("m.ts", ["torchscript", "--image-size", "7"], "give at least 8x8"),
    ("w.safetensors", ["torchscript"], "the file will be TorchScript"),
    ("taken.ts", ["torchscript"], "this file exists and is kept"),
  ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, capsys, name, options, said):
  weights = small_file(tmp_path / "w.safetensors")
  (tmp_path / "taken.ts").write_text("mine")
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  assert export(weights, tmp_path / name, "--format", *options) == 2
  message = capsys.readouterr().err
  assert said in message
  assert message.count("\n") == 1
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_rule_that_the_twins_do_not_have_is_refused(tmp_path, capsys):
  weights = small_file(tmp_path / "w.safetensors", top_k=2, selection="mass")
  assert export(weights, tmp_path / "m.ts", "--format", "torchscript") == 2
  assert "has the rule top_k alone" in capsys.readouterr().err
  assert export(weights, tmp_path / "m.ts", "--format", "torchscript", "--top-k", 0) == 0


@pytest.mark.parametrize(
  ("form", "missing"), [("torchscript", "torch"), ("onnx", "torch"), ("onnx", "onnxscript")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys, form, missing):
  monkeypatch.setitem(sys.modules, missing, None)
  assert export("w.safetensors", tmp_path / "m", "--format", form) == 2
  message = capsys.readouterr().err
  assert f"exporting {form} needs {missing}" in message
  assert "pip install" in message
