"""Detectors' weights: both ways, strict, and from the files of the trainers that wrote them."""

import numpy as np
import pytest
from support import golden_values, tiny_weights
from support.detectors import detector_state_dict
from support.pytorch import torch, twins

import pst_jax
from pst_jax import convert
from pst_jax.__main__ import main

CHECKPOINT = golden_values.FOLDER / "ultralytics_yolo11n_pst.pt"
NARROW = {"num_classes": 3, "width": 0.25}


@pytest.mark.parametrize("name", ["yolo11n-pst", "r18-pst", "yolo11n", "yolo11m"])
def test_a_state_dict_comes_back_in_the_order_and_with_the_bits_it_had(name):
  state_dict = detector_state_dict(name)
  back = convert.to_torch(name, convert.from_torch(name, state_dict))
  assert list(back) == [entry for entry, _ in golden_values.manifest(name)]
  assert tiny_weights.same(back, state_dict)


def test_the_numbers_of_the_bins_are_no_variable():
  variables = convert.from_torch("yolo11n", detector_state_dict("yolo11n"))
  assert "dfl" not in str(variables["params"]["head"].keys())


def test_other_numbers_of_the_bins_are_refused():
  state_dict = detector_state_dict("yolo11n")
  state_dict["model.23.dfl.conv.weight"] = state_dict["model.23.dfl.conv.weight"][:, ::-1]
  with pytest.raises(ValueError, match=r"model.23.dfl.conv.weight must hold the numbers 0 to 15"):
    convert.from_torch("yolo11n", state_dict)


def test_the_numbers_of_the_bins_must_be_there():
  state_dict = detector_state_dict("yolo11n")
  del state_dict["model.23.dfl.conv.weight"]
  with pytest.raises(ValueError, match=r"1 missing: model.23.dfl.conv.weight"):
    convert.from_torch("yolo11n", state_dict)


def test_a_variable_that_is_missing_is_named():
  variables = convert.from_torch("yolo11n", detector_state_dict("yolo11n"))
  del variables["params"]["head"]["box0"]
  with pytest.raises(ValueError, match=r"missing: params/head/box0"):
    convert.to_torch("yolo11n", variables)


def test_the_authors_checkpoint_is_read_with_its_class_names():
  weights = convert.read_weights(CHECKPOINT)
  facts = weights.metadata
  assert (facts.model, facts.options) == ("yolo11n-pst", {"num_classes": 80, "width": 1.0})
  assert facts.task == "detection"
  assert facts.class_names[:2] == ("class0", "class1")


@pytest.mark.slow
def test_the_authors_checkpoint_is_converted_and_verified(tmp_path, capsys):
  arguments = ["convert", CHECKPOINT, tmp_path / "w.safetensors", "--verify"]
  assert main([*map(str, arguments)]) == 0
  assert "yolo11n-pst, 80 classes" in capsys.readouterr().out
  weights = convert.read_weights(tmp_path / "w.safetensors")
  assert weights.metadata.class_names[0] == "class0"
  original = convert.read_weights(CHECKPOINT)
  assert tiny_weights.same(weights.variables, original.variables)


@pytest.mark.parametrize("key", ["model", "ema"])
def test_a_yolo11_checkpoint_of_a_pickled_module_is_the_controls(tmp_path, key):
  twin = twins.create_model("yolo11n", 80).half()
  checkpoint = {"epoch": -1, "model": None, "ema": None, "updates": None, key: twin}
  torch.save(checkpoint, tmp_path / "yolo11n.pt")
  weights = convert.read_weights(tmp_path / "yolo11n.pt")
  assert weights.metadata.model == "yolo11n"
  for name, tensor in twin.state_dict().items():
    np.testing.assert_array_equal(weights.state_dict()[name], tensor.float().numpy())


@pytest.mark.parametrize("name", ["yolo11n-pst", "yolo11n", "r18-pst"])
def test_narrow_detectors_travel_in_files_of_ours(tmp_path, name):
  network = pst_jax.create_model(name, **NARROW)
  variables = convert.from_torch(network, tiny_weights.state_dict(name, **NARROW))
  facts = convert.Metadata(name, NARROW, "somewhere", task="detection")
  convert.write_weights(tmp_path / "w.pt", convert.Weights(variables, facts))
  back = convert.read_weights(tmp_path / "w.pt")
  assert back.metadata == facts
  assert tiny_weights.same(back.variables, variables)
