"""A run that starts from given weights."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.fill import fill
from support.pytorch import needs_torch

import pst_jax
from pst_jax.convert import Metadata, Weights, from_torch, read_weights, write_weights
from pst_jax.convert.state_dict import network_entries
from pst_jax.errors import UserError
from train import loop
from train.config import Config, DataConfig, ModelConfig
from train.init_from import initial_values
from train.setup import make_setup
from train.step import FINITE
from train.tasks.classification import data
from train.tasks.classification.data import open_dataset

CLASSES = 4
CONFIG = Config(
  epochs=1,
  batch_size=8,
  eval_batch_size=8,
  eval_top_k=(0,),
  ema_decay=0.5,
  model=ModelConfig(name="resnet18_pst", stem="small", width=0.125),
  data=DataConfig(
    dataset="synthetic",
    synthetic_examples=8,
    synthetic_classes=CLASSES,
    image_size=16,
    crop="none",
    flip=False,
    eval_crop=1.0,
    threads=1,
  ),
)


def save(path, model="resnet18_pst", num_classes=CLASSES, stem="small", width=0.125):
  options = {"num_classes": num_classes, "stem": stem, "width": width}
  network = pst_jax.create_model(model, **options)
  entries = {entry.name: fill(entry.name, entry.shape) for entry in network_entries(network)}
  weights = Weights(from_torch(network, entries), Metadata(model, options, "x"))
  write_weights(path, weights)
  return {"/".join(k): v for k, v in flatten_dict(weights.variables).items()}


def config(tmp_path, source, **model):
  return dataclasses.replace(
    CONFIG,
    run_dir=str(tmp_path / "run"),
    init_from=str(source),
    model=dataclasses.replace(CONFIG.model, **model),
  )


def values(tmp_path, source, num_classes=CLASSES, **model):
  return initial_values(make_setup(config(tmp_path, source, **model), num_classes, 8))


@pytest.mark.parametrize("name", ["w.safetensors", pytest.param("w.pt", marks=needs_torch), "w"])
def test_weights_of_the_same_network_are_taken_whole(tmp_path, name):
  saved = save(tmp_path / name)
  given, lines = values(tmp_path, tmp_path / name)
  assert given.keys() == saved.keys()
  assert all(np.array_equal(given[k], saved[k]) for k in saved)
  assert lines[0] == f"init_from {tmp_path / name}: resnet18_pst, {CLASSES} classes"
  assert [line.split()[-1] for line in lines[2:]] == ["nothing", "nothing"]


def test_another_number_of_classes_makes_the_last_layer_new(tmp_path):
  saved = save(tmp_path / "w.safetensors", num_classes=7)
  given, lines = values(tmp_path, tmp_path / "w.safetensors")
  assert saved.keys() - given.keys() == {"params/head/linear/kernel", "params/head/linear/bias"}
  assert lines[2:] == ["  new       head/linear (2 entries)", "  not taken head/linear (2 entries)"]


def test_a_resnet_becomes_the_backbone(tmp_path):
  saved = save(tmp_path / "w.safetensors", model="resnet18", num_classes=7)
  given, lines = values(tmp_path, tmp_path / "w.safetensors")
  assert given.keys() == {name for name in saved if name.split("/")[1] == "backbone"}
  assert lines[1:] == [
    "  taken     backbone (100 entries)",
    "  new       head/conv (5 entries), neck (57 entries), head/linear (2 entries)",
    "  not taken head/linear (2 entries)",
  ]


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ({"model": "resnet34"}, "80 left over: params/backbone/stage1/block2/cv1/conv/kernel"),
    ({"stem": "imagenet"}, r"stem/conv/kernel \(7, 7, 3, 8\) instead of \(3, 3, 3, 8\)"),
    ({"width": 0.25}, "of another shape"),
  ],
  ids=str,
)
def test_another_backbone_is_an_error(tmp_path, source, message):
  save(tmp_path / "w.safetensors", **source)
  with pytest.raises(UserError, match=rf"does not fit resnet18_pst: .*{message}"):
    values(tmp_path, tmp_path / "w.safetensors")


def test_the_papers_weights_do_not_fit_a_network_with_other_activations(tmp_path):
  # resnet26_pst has the same parameters as r18-cls-pst, but ReLU where that has SiLU.
  save(tmp_path / "w.safetensors", model="r18-cls-pst")
  with pytest.raises(UserError, match="holds r18-cls-pst, a network of another kind"):
    values(tmp_path, tmp_path / "w.safetensors", name="resnet26_pst")


def test_a_mistake_is_found_before_the_run_folder_is_made(tmp_path):
  with pytest.raises(UserError, match="there is no such file"):
    loop.train(config(tmp_path, tmp_path / "none.pt"))
  assert not (tmp_path / "run").exists()


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Trains for a number of epochs of one step, by steps that compute nothing."""

  def step(state, _):
    numbers = ("loss", "learning_rate", "grad_norm", "param_norm")
    metrics = dict.fromkeys(numbers, 1.0) | {FINITE: [1]}
    return state.replace(step=state.step + 1), metrics

  def setup(config, num_classes, num_train):
    made = make_setup(config, num_classes, num_train, jax.devices()[:1])
    return dataclasses.replace(made, train_step=step)

  def dataset(config, splits):
    return dataclasses.replace(open_dataset(config, splits), class_names=("a", "b", "c", "d"))

  monkeypatch.setattr(loop, "make_setup", setup)
  monkeypatch.setattr(data, "open_dataset", dataset)
  monkeypatch.setattr(loop, "evaluate", lambda *_: {"k0": {"top1": 0.5, "count": 8}})
  return lambda source: loop.train(config(tmp_path, source))


def test_a_run_starts_from_the_weights_and_a_resumed_one_does_not(tmp_path, run, capsys):
  saved = save(tmp_path / "w.safetensors")
  run(tmp_path / "w.safetensors")
  assert "taken     backbone (100 entries)" in capsys.readouterr().out
  weights = read_weights(tmp_path / "run")
  for name, leaf in flatten_dict(weights.variables, sep="/").items():
    np.testing.assert_array_equal(leaf, saved[name], err_msg=name)
  (tmp_path / "w.safetensors").unlink()
  run(tmp_path / "w.safetensors")
  assert "init_from" not in capsys.readouterr().out


def test_the_names_of_the_classes_travel_with_the_weights(tmp_path, run):
  run("")
  assert read_weights(tmp_path / "run").metadata.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize("keep_ema", [True, False])
def test_the_moving_average_starts_from_the_weights(tmp_path, keep_ema):
  saved = save(tmp_path / "w.safetensors")
  run = dataclasses.replace(
    config(tmp_path, tmp_path / "w.safetensors"), ema_decay=0.5 if keep_ema else 0.0
  )
  setup = make_setup(run, CLASSES, 8)
  state = setup.initial_state(pretrained=initial_values(setup)[0])
  for name, leaf in flatten_dict(state.eval_variables, sep="/").items():
    np.testing.assert_array_equal(leaf, saved[name], err_msg=name)
  first = [leaf.addressable_data(0) for leaf in jax.tree.leaves(state) if leaf.ndim]
  buffers = [leaf.unsafe_buffer_pointer() for leaf in first]
  assert len(set(buffers)) == len(buffers)
