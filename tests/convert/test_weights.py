import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from support import tiny_weights
from support.pytorch import torch, twins

import pst_jax
from pst_jax import convert
from pst_jax.convert import Metadata, read_weights, write_safetensors, write_weights
from pst_jax.errors import UserError

FACTS = {
  "weights": "ema",
  "step": 12,
  "top_k": 2,
  "class_names": ("cat", "Käse", "c"),
  "num_batches_tracked": 12,
}


def twin(name=tiny_weights.MODEL, options=tiny_weights.OPTIONS):
  return twins.create_model(name, **options)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_and_their_metadata_come_back(tmp_path, suffix):
  weights = tiny_weights.weights(**FACTS)
  write_weights(tmp_path / f"w{suffix}", weights)
  again = read_weights(tmp_path / f"w{suffix}")
  assert tiny_weights.same(again.variables, weights.variables)
  assert again.metadata == weights.metadata


def test_a_written_pt_loads_in_pytorch_with_its_counters(tmp_path):
  write_weights(tmp_path / "w.pt", tiny_weights.weights(**FACTS))
  network = twin()
  network.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True), strict=True)
  assert int(network.bn1.num_batches_tracked) == 12


def test_the_network_takes_the_variables(tmp_path):
  weights = tiny_weights.weights()
  logits = weights.network(top_k=1).apply(weights.variables, np.zeros((1, 16, 16, 3), np.float32))
  assert logits.shape == (1, 3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_precision_becomes_float32(tmp_path, dtype):
  entries = {k: v.astype(dtype) for k, v in tiny_weights.state_dict().items()}
  write_safetensors(tmp_path / "w.safetensors", entries, {})
  weights = read_weights(tmp_path / "w.safetensors")
  expected = {k: v.astype(np.float32) for k, v in entries.items()}
  network = weights.network()
  assert tiny_weights.same(weights.variables, convert.from_torch(network, expected))


def test_a_file_of_others_is_described_by_what_it_says(tmp_path):
  model = twin()
  model.bn1.num_batches_tracked.fill_(7)
  # As Ultralytics' trainer saves: whole pickled modules in half precision, the average beside none.
  model.names = {0: "ant", 1: "bee", 2: "cat"}
  torch.save({"epoch": 3, "model": None, "ema": model.half()}, tmp_path / "last.pt")
  metadata = read_weights(tmp_path / "last.pt").metadata
  assert metadata == Metadata(
    tiny_weights.MODEL,
    tiny_weights.OPTIONS,
    source="last.pt",
    weights="ema",
    class_names=("ant", "bee", "cat"),
    num_batches_tracked=7,
  )


def test_class_names_of_another_number_are_left_out(tmp_path):
  model = twin()
  model.names = {0: "ant"}
  torch.save({"model": model}, tmp_path / "w.pt")
  assert read_weights(tmp_path / "w.pt").metadata.class_names is None


def test_a_safetensors_file_is_known_by_its_content(tmp_path):
  write_safetensors(tmp_path / "model.bin", tiny_weights.state_dict(), {"format": "pt"})
  assert read_weights(tmp_path / "model.bin").metadata.model == tiny_weights.MODEL


def test_the_metadata_tell_a_width_that_the_first_layer_does_not(tmp_path):
  options = tiny_weights.OPTIONS | {"width": 0.15}
  network = pst_jax.create_model(tiny_weights.MODEL, **options)
  entries = tiny_weights.state_dict(**options)
  weights = convert.Weights(
    convert.from_torch(network, entries), Metadata(tiny_weights.MODEL, options, "x")
  )
  write_weights(tmp_path / "w.pt", weights)
  assert read_weights(tmp_path / "w.pt").metadata.options["width"] == 0.15
  write_safetensors(tmp_path / "bare.safetensors", entries, {})
  with pytest.raises(ValueError, match="width of its first layer and both stems were tried"):
    read_weights(tmp_path / "bare.safetensors")


def test_a_network_named_by_the_user_overrides_the_metadata(tmp_path):
  write_weights(tmp_path / "w.pt", tiny_weights.weights())
  with pytest.raises(ValueError, match=r"w.pt: its entries are not those of resnet34_pst"):
    read_weights(tmp_path / "w.pt", model="resnet34_pst")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39], ids=["nan", "inf", "beyond_float32"])
def test_values_that_are_not_finite_are_an_error_with_the_names(tmp_path, value):
  entries = {k: v.astype(np.float64) for k, v in tiny_weights.state_dict().items()}
  entries["layer1.0.bn2.running_var"][1] = value
  write_safetensors(tmp_path / "w.safetensors", entries, {})
  with pytest.raises(ValueError, match=r"1 of 164 entries .* \(layer1.0.bn2.running_var\)"):
    read_weights(tmp_path / "w.safetensors")


def test_quantized_weights_are_an_error(tmp_path):
  entries = tiny_weights.state_dict()
  entries["conv1.weight"] = entries["conv1.weight"].astype(np.int8)
  write_safetensors(tmp_path / "w.safetensors", entries, {})
  with pytest.raises(ValueError, match=r"entry conv1.weight is of type int8"):
    read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"pst_jax_weights": 2}, "has form 2, but this version of pst_jax reads form 1"),
    ({"model": 5}, r"damaged \(model\)"),
    ({"model": "resnet19"}, "'resnet19' is unknown"),
    ({"options": {"stem": "small", "width": 0.125}}, r"damaged \(options\)"),
    ({"options": tiny_weights.OPTIONS | {"stem": ["small"]}}, r"damaged \(options\)"),
    ({"options": tiny_weights.OPTIONS | {"size": 3}}, "option 'size' of model"),
    ({"task": 3}, r"damaged \(task\)"),
    ({"options": tiny_weights.OPTIONS | {"width": float("inf")}}, r"damaged \(options\)"),
    ({"options": tiny_weights.OPTIONS | {"width": float("nan")}}, r"damaged \(options\)"),
    ({"options": tiny_weights.OPTIONS | {"stem": "none"}}, "stem='none'"),
    (
      {"options": tiny_weights.OPTIONS | {"num_classes": 2**60}},
      "says 1152921504606846976 classes",
    ),
    ({"options": tiny_weights.OPTIONS | {"width": 0.25}}, "of another shape: conv1.weight"),
    ({"preprocessing": {"image_size": 16}}, r"damaged \(preprocessing\)"),
    (
      {"preprocessing": tiny_weights.PREPROCESSING | {"mean": [10**400, 0, 0]}},
      r"damaged \(preprocessing\)",
    ),
    ({"task": "detection"}, "say task detection, but resnet18_pst is a network for class"),
    ({"class_names": [1]}, r"damaged \(class_names\)"),
    ({"step": -1}, r"damaged \(step\)"),
  ],
  ids=str,
)
def test_damaged_metadata_are_named(tmp_path, change, message):
  block = tiny_weights.weights().metadata.to_block() | change
  write_safetensors(tmp_path / "w.safetensors", tiny_weights.state_dict(), block)
  with pytest.raises(ValueError, match=message) as raised:
    read_weights(tmp_path / "w.safetensors")
  assert str(raised.value).startswith(f"{tmp_path}/w.safetensors: ")


def test_the_metadata_are_plain_values():
  block = tiny_weights.weights(**FACTS).metadata.to_block()
  assert Metadata.from_block(json.loads(json.dumps(block))) == Metadata.from_block(block)


def test_metadata_of_others_are_not_ours():
  assert Metadata.from_block({"model": "resnet18"}) is None


def test_weights_are_written_under_known_endings_alone(tmp_path):
  with pytest.raises(ValueError, match=r"ending '.onnx' says no form: use .safetensors, .pt, .pth"):
    write_weights(tmp_path / "w.onnx", tiny_weights.weights())


def test_a_file_that_exists_is_kept_unless_forced(tmp_path):
  path = tmp_path / "w.pt"
  path.write_text("mine")
  with pytest.raises(ValueError, match="exists and is kept"):
    write_weights(path, tiny_weights.weights())
  assert path.read_text() == "mine"
  write_weights(path, tiny_weights.weights(), force=True)
  assert read_weights(path).metadata.model == tiny_weights.MODEL


def test_blocks_of_the_first_version_and_of_other_tasks_read():
  block = tiny_weights.weights(**FACTS).metadata.to_block()
  block.pop("task")
  assert Metadata.from_block(block).task == "classification"
  detection = Metadata("yolo11n", {"num_classes": 80}, "x", task="detection")
  detection = dataclasses.replace(detection, preprocessing={"image_size": 640, "stride": 32})
  assert Metadata.from_block(json.loads(json.dumps(detection.to_block()))) == detection


@pytest.mark.parametrize("changes", [{"preprocessing": {"image_size": 64}}, {}])
def test_weights_of_another_task_than_they_say_are_not_written(tmp_path, changes):
  new = tiny_weights.weights()
  metadata = Metadata("yolo11n", {"num_classes": 80}, "x", **changes)
  with pytest.raises(UserError, match="say task classification, but yolo11n is a network for det"):
    write_weights(tmp_path / "w.safetensors", dataclasses.replace(new, metadata=metadata))
  assert not list(tmp_path.iterdir())


def test_files_are_written_below_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  write_weights("~/w.safetensors", tiny_weights.weights())
  assert read_weights("~/w.safetensors").metadata.model == tiny_weights.MODEL


def with_counters(path, value):
  entries = tiny_weights.state_dict()
  norms = [name.rpartition(".")[0] for name in entries if name.endswith("running_var")]
  write_safetensors(path, entries | {f"{norm}.num_batches_tracked": value for norm in norms}, {})
  return path


@pytest.mark.parametrize("count", [np.array(-1), np.array(2**63, np.uint64)])
def test_a_counter_that_cannot_be_counts_for_nothing(tmp_path, count):
  path = with_counters(tmp_path / "w.safetensors", count)
  assert read_weights(path).metadata.num_batches_tracked == 0


@pytest.mark.parametrize("count", [np.nan, np.inf])
def test_a_counter_that_is_no_number_is_named(tmp_path, count):
  path = with_counters(tmp_path / "w.safetensors", np.array(count))
  with pytest.raises(UserError, match=r"entries hold NaN or infinity \(bn1.num_batches_tracked"):
    read_weights(path)
