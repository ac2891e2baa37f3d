import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.quick_jit import quick_jit
from support.small_weights import PREPROCESSING, small_file, small_images, small_weights

from pst_jax import __main__ as command_line
from pst_jax.inference.classifier import Classifier
from pst_jax.inference.predictor import normalize
from pst_jax.inference.stablehlo import PLATFORMS, export_predictor

# A program of somebody who has JAX and the file, and nothing of this project.
ELSEWHERE = """
import sys
import jax, jax.export
import numpy as np

network = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
options = {"xla_backend_optimization_level": 0}
run = jax.jit(network.call, compiler_options=options)
np.savez(sys.argv[3], one=run(images[:1]), three=run(images))
packages = {name.split(".")[0] for name in sys.modules}
ours = packages & {"flax", "pst_jax", "train", "optax", "einops"}
sys.exit(f"imported {ours}" if ours else 0)
"""


def export(*arguments):
  return command_line.main(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("export")
  small_file(folder / "weights.safetensors", class_names=("a", "b", "c"), step=7)
  code = export(folder / "weights.safetensors", folder / "network", "--top-k", 2)
  assert code == 0
  return folder


def test_file_gives_the_unfolded_networks_logits_in_a_process_with_jax_alone(folder):
  images = small_images(3)
  np.save(folder / "images.npy", images)
  paths = [folder / name for name in ("network", "images.npy", "logits.npz")]
  # In the folder, so that Python does not find this project beside the program.
  subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, paths)], check=True, cwd=folder)
  weights = small_weights()
  prepared = normalize(images, PREPROCESSING["mean"], PREPROCESSING["std"], np.float32)
  expected = quick_jit(weights.network(top_k=2).apply)(weights.variables, prepared)
  with np.load(folder / "logits.npz") as logits:
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(logits["three"], expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(logits["one"], expected[:1], rtol=0, atol=tolerance)


def test_facts_lie_beside_the_file(folder):
  facts = json.loads((folder / "network.json").read_text())
  assert facts["input"] == "uint8[batch,16,16,3]"
  assert facts["output"] == "float32[batch,3]"
  assert (facts["top_k"], facts["step"], facts["class_names"]) == (2, 7, ["a", "b", "c"])
  assert facts["preprocessing"] == PREPROCESSING
  assert facts["platforms"] == list(PLATFORMS)


def test_file_is_about_as_large_as_the_weights(folder):
  params = small_weights().variables["params"]
  weights = 4 * sum(np.size(leaf) for leaf in jax.tree.leaves(params))
  assert weights < (folder / "network").stat().st_size < 1.5 * weights


@pytest.mark.parametrize("taken", ["network", "network.json"])
def test_what_exists_is_kept_unless_forced(tmp_path, capsys, taken):
  weights = small_file(tmp_path / "weights.safetensors")
  (tmp_path / taken).write_text("mine")
  before = sorted(tmp_path.iterdir())
  assert export(weights, tmp_path / "network", "--platforms", "cpu") == 2
  assert "--force" in capsys.readouterr().err
  assert (tmp_path / taken).read_text() == "mine"
  assert sorted(tmp_path.iterdir()) == before
  assert export(weights, tmp_path / "network", "--platforms", "cpu", "--force") == 0
  assert jax.export.deserialize(bytearray((tmp_path / "network").read_bytes())).platforms == (
    "cpu",
  )


@pytest.mark.parametrize("model", ["r18-cls-pst", "yolo11n-cls-pst", "resnet18"])
def test_every_family_exports_for_all_platforms_at_once(model):
  options = {"num_classes": 3, "stem": "imagenet", "width": 0.125}
  weights = small_weights(model, options, top_k=0 if model == "resnet18" else 2)
  exported = export_predictor(Classifier.from_weights(weights, image_size=75))
  assert exported.platforms == ("cpu", "tpu", "cuda")
  assert str(exported.in_avals[0]) == "uint8[batch,75,75,3]"


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--top-k", 9], "has 4: choose top_k between 0 and 4"),
    (["--top-k", -1], "top_k=-1"),
    (["--image-size", 7], "give at least 8x8"),
    (["--image-size", -7], "image_size is -7"),
    (["--step", "best"], "leave --step out"),
  ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, capsys, arguments, said):
  weights = small_file(tmp_path / "weights.safetensors")
  assert export(weights, tmp_path / "network", *arguments) == 2
  message = capsys.readouterr().err
  assert message.startswith("error: ")
  assert said in message
  assert message.count("\n") == 1
  assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_fine_branch_needs_pst():
  with pytest.raises(ValueError, match="resnet18 has no PST module"):
    Classifier.from_weights(small_weights("resnet18"), top_k=8)


def test_without_flatbuffers_the_extra_is_named(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "flatbuffers", None)
  assert export("weights.safetensors", tmp_path / "network") == 2
  assert "pip install 'flatbuffers" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m.onnx", "m.PT", "m.tflite"])
def test_the_ending_of_another_form_is_refused(tmp_path, capsys, name):
  assert export(tmp_path / "missing", tmp_path / name) == 2
  assert "the file will be StableHLO, which" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
