"""What strangers share on the hub: timm's repositories, and files that no honest person wrote."""

import json

import pytest
import safetensors.numpy
from support import tiny_weights
from support.pytorch import needs_torch, torch

import pst_jax
from pst_jax.__main__ import main
from pst_jax.convert import read_weights, write_weights
from pst_jax.hub import MOST_CONFIG

TIMM = {
  "architecture": "resnet18",
  "num_classes": 3,
  "pretrained_cfg": {
    "tag": "a1_in1k",
    "input_size": [3, 160, 160],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
  },
}


def timms(name="resnet18", **config):
  """The files of a repository of timm's, with a narrow network."""
  arrays = tiny_weights.state_dict(name, num_classes=3, width=0.125)
  return {
    "model.safetensors": safetensors.numpy.save(arrays),
    "config.json": json.dumps(TIMM | {"architecture": name} | config).encode(),
  }


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_timms_config_gives_the_preprocessing(hub, name):
  hub.add("timm/it", timms(name))
  model, _, preprocessing = pst_jax.from_pretrained("hf://timm/it")
  assert model.num_classes == 3
  assert preprocessing == {
    "image_size": 160,
    "eval_crop": 0.95,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bicubic",
  }


def test_timms_first_form_of_a_config_is_read(hub):
  config = {"architecture": "resnet18", "num_classes": 3, **TIMM["pretrained_cfg"]}
  hub.add("timm/it", timms() | {"config.json": json.dumps(config).encode()})
  assert pst_jax.from_pretrained("hf://timm/it")[2]["eval_crop"] == 0.95


def test_what_a_config_of_timm_leaves_out_is_as_timm_takes_it(hub):
  hub.add("timm/it", timms(pretrained_cfg={"input_size": [3, 64, 64]}))
  preprocessing = pst_jax.from_pretrained("hf://timm/it")[2]
  assert preprocessing == {
    "image_size": 64,
    "eval_crop": 0.875,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
  }


def test_class_names_of_timm_are_taken_if_there_is_one_for_each_class(hub):
  hub.add("timm/it", timms(label_names=["x", "y", "z"]))
  hub.add("timm/other", timms(label_names=["x", "y"]))
  assert read_weights("hf://timm/it").metadata.class_names == ("x", "y", "z")
  assert read_weights("hf://timm/other").metadata.class_names is None


def test_weights_that_fit_another_network_are_not_taken_for_it(hub, refused, tmp_path):
  # resnetaa18 blurs before it shrinks, which no entry tells.
  hub.add(
    "timm/it", timms() | {"config.json": json.dumps(TIMM | {"architecture": "resnetaa18"}).encode()}
  )
  dest = tmp_path / "w.safetensors"
  assert "says resnetaa18, and its entries are those of resnet18" in refused(
    "convert", "hf://timm/it", dest
  )
  assert main(["convert", "hf://timm/it", str(dest), "--model", "resnet18"]) == 0


def test_inspect_shows_what_timm_says(hub, capsys):
  hub.add("timm/it", timms())
  assert main(["inspect", "hf://timm/it"]) == 0
  shown = capsys.readouterr().out
  assert "preprocessing  image_size 160, eval_crop 0.95" in shown
  assert "source         hf://timm/it" in shown


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"{", "is no JSON"),
    (b"[" * 10**5, "is no JSON"),
    (b"[]", "is a list, not an object"),
    (b" " * (MOST_CONFIG + 1), "are the most"),
    (json.dumps(TIMM | {"pretrained_cfg": {"input_size": [3, 64, 32]}}), "must be square"),
    (json.dumps(TIMM | {"pretrained_cfg": {"input_size": []}}), "no shape for input_size"),
    (json.dumps(TIMM | {"architecture": ["resnet18"]}), "says no architecture"),
    (json.dumps(TIMM | {"global_pool": "max"}), "resnet18 with options of its own"),
    (json.dumps(TIMM | {"pretrained_cfg": {"input_size": [3, -1, -1]}}), "is damaged"),
    (json.dumps(TIMM | {"pretrained_cfg": {"input_size": [3, 9, 9], "std": "x"}}), "is damaged"),
    (json.dumps({"pst_jax_weights": 1, "model": 7}), "is damaged (model)"),
    (json.dumps({"pst_jax_weights": 9}), "has form 9"),
  ],
  ids=[
    "text",
    "deep",
    "list",
    "large",
    "oblong",
    "none",
    "names",
    "pool",
    "negative",
    "words",
    "model",
    "form",
  ],
)
def test_a_config_that_cannot_be_is_one_sentence(hub, refused, content, said):
  content = content if isinstance(content, bytes) else content.encode()
  hub.add("timm/it", timms() | {"config.json": content})
  assert said in refused("inspect", "hf://timm/it")


def test_files_of_two_pushes_do_not_go_together(hub, push, file, tmp_path, refused):
  push(file, "alice/digits")
  write_weights(tmp_path / "new.safetensors", tiny_weights.weights(step=5))
  mixed = (tmp_path / "new.safetensors").read_bytes()
  hub.repositories["alice/digits"].commit({"weights.safetensors": mixed})
  assert "do not belong together" in refused("inspect", "hf://alice/digits")


@needs_torch
def test_a_pickle_of_the_hub_is_read_and_never_run(hub, tmp_path, refused):
  arrays = {
    n: torch.from_numpy(a)
    for n, a in tiny_weights.state_dict("resnet18", num_classes=3, width=0.125).items()
  }
  torch.save(arrays, tmp_path / "good.bin")

  class Evil:
    def __reduce__(self):
      return (open, (str(tmp_path / "was_run"), "w"))

  torch.save(arrays | {"fc.bias": Evil()}, tmp_path / "bad.bin")
  for name in ("good", "bad"):
    content = timms() | {"pytorch_model.bin": (tmp_path / f"{name}.bin").read_bytes()}
    del content["model.safetensors"]
    hub.add(f"timm/{name}", content)
  assert read_weights("hf://timm/good").metadata.model == "resnet18"
  assert "nothing of the file was run" in refused("inspect", "hf://timm/bad")
  assert not (tmp_path / "was_run").exists()
