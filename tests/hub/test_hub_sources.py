"""The hub as a source and a destination: names that are taken, rights, revisions, no network."""

import dataclasses
import json
import logging
import sys

import pytest
from support import tiny_weights
from support.quick_jit import OPTIONS

import pst_jax
from pst_jax.convert import read_weights
from pst_jax.errors import UserError

ADDRESS = "hf://alice/digits"


def test_a_name_that_is_taken_is_kept(hub, file, refused):
  made = hub.add("alice/digits", {"notes.txt": b"mine"})
  before = list(made.commits)
  assert "this name is taken (notes.txt)" in refused("push", file, "alice/digits")
  assert made.commits == before


def test_force_adds_a_commit_and_keeps_the_other_files(hub, push, file):
  made = hub.add("alice/digits", {"notes.txt": b"mine", "README.md": b"old"})
  assert push(file, "alice/digits", "--force") == 0
  assert made.commits[-1][1]["notes.txt"] == b"mine"
  assert made.commits[-2][1]["README.md"] == b"old"
  assert read_weights(ADDRESS).metadata.step == 4


def test_a_commit_that_came_in_between_is_not_overwritten(hub, file, refused):
  made = hub.add("alice/digits", {"notes.txt": b"mine"})
  hub.interrupt = lambda hub: made.commit({"README.md": b"of another push"})
  said = refused("push", file, "alice/digits", "--force")
  assert "somebody else pushed to it meanwhile" in said
  assert "weights.safetensors" not in made.commits[-1][1]


def test_a_repository_of_somebody_else_is_refused(hub, file, refused):
  made = hub.add("bob/digits", {"notes.txt": b"his"})
  assert "choose a name of your own account" in refused("push", file, "bob/digits", "--force")
  assert list(made.commits[-1][1]) == [".gitattributes", "notes.txt"]
  assert "choose a name of your own account" in refused("push", file, "bob/new")


def test_a_push_that_failed_goes_on_with_the_same_command(hub, push, file, refused):
  hub.faults = {"/commit/": [500]}
  said = refused("push", file, "alice/digits")
  assert "the hub answered with status 500" in said
  assert "the repository is made, and empty; nothing was shared: mend that, then push again" in said
  assert push(file, "alice/digits") == 0


def test_a_license_that_the_hub_does_not_know_is_told(hub, file, refused):
  said = refused("push", file, "alice/digits", "--license", "mine")
  assert 'license must be one of "apache-2.0", "mit"' in said


def test_a_file_that_cannot_be_uploaded_is_named_by_what_the_hub_said(hub, file, refused):
  hub.faults = {"/lfs/upload/": [403]}
  assert "a token that may write" in refused("push", file, "alice/digits")


@pytest.mark.parametrize(
  ("token", "said"),
  [("", "pushing needs a token of yours"), ("hf_expired", "the hub does not know the token")],
)
def test_without_a_good_token_nothing_is_made(hub, file, monkeypatch, refused, token, said):
  monkeypatch.setenv("HF_TOKEN", token)
  assert said in refused("push", file, "alice/digits")
  assert not hub.repositories


@pytest.mark.parametrize(
  ("address", "said"),
  [
    ("hf://alice/none", "there is no such repository, or this user may not see it"),
    ("hf://alice/digits@v9", "it has no such branch, tag or commit"),
    ("hf://digits", "names no repository of the hub: give hf://owner/name"),
    ("hf://alice/digits/w.pt", "names no repository of the hub"),
    ("hf://alice/../digits", "names no repository of the hub"),
    ("hf://alice/digits@../../x", "names no repository of the hub"),
    ("hf://alice/notes", "it holds none of weights.safetensors, model.safetensors"),
  ],
)
def test_what_is_not_there_is_one_sentence(hub, refused, address, said):
  for name in ("digits", "notes"):
    hub.add(f"alice/{name}", {"notes.txt": b"mine"})
  assert said in refused("inspect", address)


def test_one_step_is_all_that_a_repository_has(hub, refused, tmp_path):
  said = refused("convert", ADDRESS, tmp_path / "w.safetensors", "--step", "best")
  assert "leave --step out" in said


def test_the_hub_is_written_to_by_push_alone(hub, file, refused):
  assert "`pst_jax push` is the command" in refused("convert", file, ADDRESS)


def test_where_the_hub_cannot_be_reached_the_copy_is_taken(hub, push, file, ask_at, caplog):
  push(file, "alice/digits")
  read_weights(ADDRESS)
  ask_at("http://127.0.0.1:9")
  with caplog.at_level(logging.WARNING):
    assert read_weights(ADDRESS).metadata.step == 4
  assert "the copy on this machine is taken" in caplog.text


def test_where_nothing_is_cached_an_unreachable_hub_is_one_sentence(hub, file, ask_at, refused):
  ask_at("http://127.0.0.1:9")
  assert "the hub cannot be reached" in refused("push", file, "alice/digits")
  said = refused("inspect", ADDRESS)
  assert "the hub cannot be reached" in said
  assert "there is no copy on this machine" in said


def test_without_huggingface_hub_the_sentence_says_how_to_install_it(monkeypatch, refused, file):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  assert "pip install" in refused("push", file, "alice/digits")
  assert "pip install" in refused("inspect", ADDRESS)


def test_a_run_starts_from_weights_of_the_hub(hub, push, file):
  from train.config import Config, DataConfig, ModelConfig
  from train.init_from import initial_values
  from train.setup import make_setup

  push(file, "alice/digits")
  config = Config(
    init_from=ADDRESS,
    batch_size=8,
    eval_top_k=(0,),
    model=ModelConfig(tiny_weights.MODEL, stem="small", width=0.125),
    data=dataclasses.replace(DataConfig(dataset="synthetic"), image_size=16),
  )
  values, lines = initial_values(make_setup(config, 3, 8))
  there = tiny_weights.leaves(read_weights(file).variables)
  assert values.keys() == there.keys()
  assert f"init_from {ADDRESS}: resnet18_pst, 3 classes" in lines[0]


@pytest.mark.slow
def test_weights_of_the_hub_are_evaluated_as_the_file_is(hub, push, file, tmp_path, monkeypatch):
  from train import evaluate

  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
  push(file, "alice/digits")
  results = []
  for source in (ADDRESS, str(file)):
    data = "--dataset", "synthetic", "--batch-size", "1024", "--top-k", "0"
    evaluate.main([source, *data, "--json", str(tmp_path / "metrics.json"), "--force"])
    results.append(json.loads((tmp_path / "metrics.json").read_text()) | {"source": ""})
  assert results[0] == results[1]
  assert results[0]["image_size"] == 16


def test_an_address_says_no_data_set_to_evaluate_on(hub, push, file):
  from train import evaluate

  push(file, "alice/digits")
  with pytest.raises(UserError, match="give --dataset NAME"):
    evaluate.main([ADDRESS])
