"""pst_jax push, and what comes back, against a stand-in of the hub: `support.hub_server`."""

import json
import os
import subprocess
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_weights
from support.small_detector import detector_weights

import pst_jax
from pst_jax.commands.model_card import model_card
from pst_jax.convert import Metadata, hub_config, read_weights, write_weights
from pst_jax.inference.classifier import IMAGENET, Classifier

ADDRESS = "hf://alice/digits"


def bits(variables):
  return {name: leaf.tobytes() for name, leaf in tiny_weights.leaves(variables).items()}


def test_what_is_pushed_comes_back_the_same_to_the_bit(hub, push, run_folder):
  assert push(run_folder, "alice/digits", "--step", 2) == 0
  _, variables, _ = pst_jax.from_pretrained(ADDRESS)
  there = read_weights(run_folder, step=2)
  assert bits(variables) == bits(there.variables)
  assert read_weights(ADDRESS).metadata == there.metadata


@pytest.mark.slow
def test_the_commands_alone_share_and_predict(hub, file, tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
  cv2.imwrite(str(tmp_path / "a.png"), picture)
  home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
  environment = os.environ | home | {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_alice"}
  for arguments in (
    ["push", file, "alice/digits"],
    ["predict", ADDRESS, "a.png", "--json", "there.json"],
    ["predict", file, "a.png", "--json", "here.json"],
  ):
    command = [sys.executable, "-m", "pst_jax", *map(str, arguments)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
  assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()


def test_from_pretrained_gives_the_network_as_it_was_trained_and_its_preprocessing(run_folder):
  model, variables, preprocessing = pst_jax.from_pretrained(run_folder)
  assert (model.top_k, model.num_classes, model.stem, model.width) == (2, 3, "small", 0.125)
  assert set(variables) == {"params", "batch_stats"}
  assert preprocessing == tiny_weights.PREPROCESSING


def test_what_the_weights_do_not_say_is_taken_as_imagenets():
  metadata = Metadata("resnet18", {"num_classes": 3}, "nowhere")
  assert Classifier.preprocessing_of(metadata) == {"image_size": 224, **IMAGENET}


def test_from_pretrained_takes_options_of_the_network(file):
  model, _, _ = pst_jax.from_pretrained(file, top_k=3, selection="mass", dtype=jnp.bfloat16)
  assert (model.top_k, model.selection, model.dtype) == (3, "mass", jnp.bfloat16)


def test_config_json_says_what_the_run_knows(hub, push, run_folder):
  push(run_folder, "alice/digits", "--step", 2)
  config = json.loads(hub.file("alice/digits", "config.json"))
  assert config["architecture"] == "resnet18_pst"
  assert config["preprocessing"] == tiny_weights.PREPROCESSING
  assert config["class_names"] == ["a", "b", "c"]
  assert config["metrics"] == {"eval/top1_coarse": 0.9}
  assert config["training_config"]["optim.learning_rate"] == 0.1


def test_places_on_the_machine_that_trained_are_not_shared(hub, push, run_folder):
  push(run_folder, "alice/digits")
  for name in ("config.json", "README.md"):
    assert b"somebody" not in hub.file("alice/digits", name)
    assert b"tensorflow_datasets" not in hub.file("alice/digits", name)


def test_what_was_measured_of_the_average_is_not_said_of_the_parameters(hub, push, run_folder):
  push(run_folder, "alice/digits", "--weights", "params")
  assert json.loads(hub.file("alice/digits", "config.json"))["metrics"] == {}
  assert "No evaluation of these weights" in hub.file("alice/digits", "README.md").decode()


def test_the_card_says_what_the_run_says_and_what_is_not_reproduced(hub, push, run_folder):
  push(run_folder, "alice/digits", "--step", 2, "--license", "apache-2.0")
  card = hub.file("alice/digits", "README.md").decode()
  header = card.split("---\n")[1].splitlines()
  assert 'library_name: "pst_jax"' in header
  assert 'pipeline_tag: "image-classification"' in header
  assert 'license: "apache-2.0"' in header
  assert "| `top1_coarse` | 0.9 |" in card
  assert "step 2, moving average" in card
  assert "not reproduced" in card


def test_the_card_of_a_detector_names_its_task():
  weights = detector_weights(class_names=("a", "b", "c|d\n# e"))
  card = model_card("a/b", weights, hub_config.make(weights.metadata, weights.record), None)
  assert 'pipeline_tag: "object-detection"' in card
  assert "| Classes | a, b, c\\|d # e |" in card


def test_no_license_is_named_that_was_not_given(hub, push, file):
  push(file, "alice/digits")
  assert b"license" not in hub.file("alice/digits", "README.md")


def test_a_repository_may_be_private(hub, push, file, monkeypatch, refused):
  push(file, "alice/digits", "--private")
  assert read_weights(ADDRESS).metadata.step == 4
  monkeypatch.setenv("HF_TOKEN", "hf_reader")
  assert "there is no such repository, or" in refused("inspect", ADDRESS)


@pytest.mark.parametrize("revision", ["v1", "main"])
def test_a_revision_is_what_it_names(hub, push, file, tmp_path, revision):
  push(file, "alice/digits")
  hub.repositories["alice/digits"].tags["v1"] = hub.repositories["alice/digits"].newest
  write_weights(tmp_path / "new.safetensors", tiny_weights.weights(step=5))
  assert push(tmp_path / "new.safetensors", "alice/digits", "--force") == 0
  step = read_weights(f"{ADDRESS}@{revision}").metadata.step
  assert step == {"v1": 4, "main": 5}[revision]
