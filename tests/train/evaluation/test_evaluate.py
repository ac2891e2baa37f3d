"""python -m train.evaluate as a user gives it; of runs, tests/train/test_run.py has more."""

import json
import re
import shlex
import sys

import cv2
import jax
import numpy as np
import pytest
from support.pytorch import needs_torch
from support.quick_jit import OPTIONS
from support.small_weights import small_weights

import pst_jax
from pst_jax import preprocessing
from pst_jax.convert import write_weights
from pst_jax.errors import run_command
from pst_jax.inference.classifier import Classifier
from train import evaluate as command
from train.config import Config, DataConfig
from train.config_values import to_json
from train.evaluation import evaluator as evaluation
from train.evaluation import source as evaluation_source
from train.tasks.classification.data import open_dataset

NETWORK = {"num_classes": 10, "stem": "small", "width": 0.125}


@pytest.fixture(scope="module")
def weights():
  return small_weights(options=NETWORK, step=7)


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
  write_weights(path, weights)
  return path


@pytest.fixture
def data(digits_dir):
  """Options that choose a few of the digits."""
  return f"--dataset digits --data-dir {digits_dir} --split test[:50] --batch-size 25"


@pytest.fixture
def run(capsys):
  def run(text):
    command.main(shlex.split(text))
    return capsys.readouterr().out

  return run


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)


def rows(out) -> dict[int, list[str]]:
  return {int(m[1]): m[2].split() for m in re.finditer(r"^ *(\d+) +([\d. ]+)$", out, re.M)}


@pytest.fixture
def asked(monkeypatch):
  """The (weights, config) that commands would evaluate; each "has" the same accuracy."""
  calls = []

  def evaluate_weights(weights, config, dataset):
    calls.append((weights, config))
    metrics = {
      name: {"top1": 0.5 + each.top_k / 100, "top5": 0.9, "loss": 2.0, "count": 50}
      for name, each in config.evals.items()
    }
    return metrics, metrics

  monkeypatch.setattr(evaluation_source, "evaluate_weights", evaluate_weights)
  return calls


def by_hand(weights, top_k, digits_dir) -> float:
  """The mean loss of the same digits, without anything of the trainer's steps."""
  records = open_dataset(DataConfig("digits", str(digits_dir), eval_split="test[:50]")).eval
  facts = weights.metadata.preprocessing
  config = DataConfig(image_size=facts["image_size"], eval_crop=facts["eval_crop"])
  crops = [
    preprocessing.evaluation_crop(
      preprocessing.decode(r["image"]), config.image_size, config.eval_crop
    )
    for r in records
  ]
  classifier = Classifier.from_weights(weights, top_k=top_k)
  logits = jax.jit(classifier.run, compiler_options=OPTIONS)(classifier.variables, np.stack(crops))
  labels = np.array([r["label"] for r in records])
  return float(-np.mean(jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]))


def test_a_file_is_evaluated_as_its_metadata_say_in_one_pass(
  run, file, data, weights, digits_dir, monkeypatch
):
  passes = []
  original = evaluation.eval_batches
  monkeypatch.setattr(
    evaluation, "eval_batches", lambda *a, **k: passes.append(a) or original(*a, **k)
  )
  out = run(f"{file} {data} --top-k 0 4")
  assert f"{file}: resnet18_pst, 10 classes, stem small, width 0.125, step 7, parameters" in out
  assert "split test[:50] of digits, images of 16x16" in out
  found = rows(out)
  for top_k in (0, 4):
    assert float(found[top_k][2]) == pytest.approx(by_hand(weights, top_k, digits_dir), abs=1e-4)
    assert found[top_k][3] == "50"
  assert len(passes) == 1


@needs_torch
def test_every_form_of_weights_is_evaluated_alike(run, asked, file, data, weights, tmp_path):
  write_weights(tmp_path / "digits.pt", weights)
  write_weights(tmp_path / "digits", weights)
  for source in (file, tmp_path / "digits.pt", tmp_path / "digits"):
    run(f"{source} {data}")
  (first, config), *others = asked
  assert [each.top_k for each in config.evals.values()] == [0, 8]
  for other, its_config in others:
    assert its_config == config
    jax.tree.map(np.testing.assert_array_equal, other.variables, first.variables)


def test_options_stand_above_the_metadata(run, asked, file, data):
  run(f"{file} {data}")
  run(f"{file} {data} --image-size 24 --eval-crop 1 --mean 0 0 0 --std 1 1 1 --top-k 9 2")
  (_, usual), (_, changed) = asked
  facts = "image_size", "eval_crop", "mean", "std"
  assert [getattr(usual.data, fact) for fact in facts] == [
    16,
    0.5,
    (0.1, 0.2, 0.3),
    (0.4, 0.5, 0.6),
  ]
  assert [getattr(changed.data, fact) for fact in facts] == [24, 1, (0, 0, 0), (1, 1, 1)]
  assert [each.top_k for each in changed.evals.values()] == [9, 2]
  assert changed.eval_batch_size == 25


def test_figures_go_to_files(run, asked, file, data, tmp_path):
  plot, table = tmp_path / "sweep.svg", tmp_path / "sweep.json"
  out = run(f"{file} {data} --top-k 0 4 --plot {plot} --json {table}")
  content = json.loads(table.read_text())
  assert [content[fact] for fact in ("model", "step", "weights")] == ["resnet18_pst", 7, "params"]
  assert (content["dataset"], content["split"], content["image_size"]) == (
    "digits",
    "test[:50]",
    16,
  )
  for row in content["accuracy"]:
    assert f"{100 * row['top1']:.2f}" == rows(out)[row["top_k"]][0]
  assert "<svg" in plot.read_text()


def test_a_plot_can_be_a_picture(run, asked, file, data, tmp_path):
  run(f"{file} {data} --top-k 0 --plot {tmp_path}/a.png")
  assert cv2.imread(str(tmp_path / "a.png")).shape[2] == 3


def test_classes_of_other_names_are_pointed_out(run, data, tmp_path):
  names = tuple("0123456798")
  write_weights(tmp_path / "a.safetensors", small_weights(options=NETWORK, class_names=names))
  out = run(f"{tmp_path}/a.safetensors {data} --top-k 0")
  assert "Class 8 is '9' to the weights and '8' to dataset digits: classes are compared by" in out


def test_weights_without_metadata_take_those_of_imagenet(run, asked, data, tmp_path):
  write_weights(tmp_path / "a.safetensors", small_weights(options=NETWORK, preprocessing=None))
  out = run(f"{tmp_path}/a.safetensors {data} --top-k 0")
  assert "The weights say nothing of preprocessing: torchvision's for ImageNet is taken." in out
  assert "images of 32x32" in out


def test_without_pst_there_is_one_row(run, asked, data, tmp_path):
  write_weights(tmp_path / "a.safetensors", small_weights("resnet18", NETWORK))
  assert list(rows(run(f"{tmp_path}/a.safetensors {data}"))) == [0]


# Mistakes


@pytest.fixture
def error_of(capsys):
  def run(text):
    with pytest.raises(SystemExit) as exit:
      run_command(command.main, shlex.split(text))
    err = capsys.readouterr().err
    assert exit.value.code == 2
    assert (err[:7], err.count("\n")) == ("error: ", 1)
    return err

  return run


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ("", "does not say which data set it is for: give --dataset NAME"),
    ("DATA --dataset synthetic --image-size 7", "images of 7x7 pixels are too small"),
    ("DATA --dataset nothing", r"dataset nothing is not in .*\(evaluating: --data-dir\)"),
    ("DATA --split val", "dataset digits has no split val: name one of train, test"),
    ("DATA --split test[:0]", "is empty"),
    ("DATA --top-k 0 5", r"top_k=5 .* 2x2 has 4: choose top_k between 0 and 4"),
    ("DATA --top-k -1", r"evals.k-1.top_k is -1, but it must be a whole number from 0"),
    ("DATA --batch-size 0", "eval_batch_size is 0, but"),
    ("DATA --eval-crop 0", "data.eval_crop is 0.0, but it must be a number from 0.1 to 1"),
    ("DATA --std 1 0 1", "data.std is"),
    ("DATA --step 3", "a file holds one step: leave --step out"),
    ("DATA --model resnet18", "resnet18"),
    ("DATA --plot sweep.gif", r"--plot is sweep.gif, but its ending must be .png, .svg, .pdf"),
    ("DATA --plot no/sweep.png", "the folder .* does not exist; make it first"),
    ("DATA --json no/sweep.json", "the folder .* does not exist; make it first"),
  ],
  ids=lambda case: case if case.startswith(("DATA", "!")) else "",
)
def test_a_mistake_is_one_sentence(error_of, file, data, options, message):
  error = error_of(f"{file} {options.replace('DATA', data)}")
  assert re.search(message, error), error


def test_another_number_of_classes_is_refused(error_of, data, tmp_path):
  write_weights(tmp_path / "a.safetensors", small_weights())
  error = error_of(f"{tmp_path}/a.safetensors {data}")
  assert "the weights have 3 classes, but dataset digits has 10: give the data set that" in error


def test_a_fine_branch_is_refused_where_there_is_none(error_of, data, tmp_path):
  write_weights(tmp_path / "a.safetensors", small_weights("resnet18", NETWORK))
  error = error_of(f"{tmp_path}/a.safetensors {data} --top-k 0 8")
  assert "top_k is 8, but resnet18 has no PST module" in error


def test_a_result_that_is_there_is_kept_unless_forced(error_of, run, asked, file, data, tmp_path):
  table = tmp_path / "a.json"
  table.write_text("mine")
  assert "exists and is kept" in error_of(f"{file} {data} --json {table}")
  assert table.read_text() == "mine"
  run(f"{file} {data} --top-k 0 --json {table} --force")
  assert "accuracy" in table.read_text()


def test_a_plot_without_matplotlib_names_what_to_install(error_of, file, data, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  assert "not installed: pip install matplotlib" in error_of(f"{file} {data} --plot a.png")


def test_what_is_not_there_is_refused(error_of, tmp_path):
  assert "nothing: there is no such file; check the path" in error_of(f"{tmp_path}/nothing")


def test_a_folder_that_holds_no_weights_is_refused(error_of, tmp_path):
  assert "this folder holds no weights: give the folder of a run" in error_of(str(tmp_path))


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (to_json(Config())[:-10].encode(), "the saved config is no valid JSON"),
    (b"\xff\xfe", "'utf-8' codec can't decode"),
  ],
)
def test_a_damaged_config_names_its_file(error_of, tmp_path, content, reason):
  (tmp_path / "config.json").write_bytes(content)
  error = error_of(str(tmp_path))
  assert f"{tmp_path}/config.json cannot be used: {reason}" in error


def test_a_run_without_a_checkpoint_is_refused(error_of, tmp_path):
  (tmp_path / "config.json").write_text(to_json(Config()))
  assert "there is no checkpoint yet" in error_of(str(tmp_path))


def test_a_step_that_is_no_number_is_refused(error_of, tmp_path):
  error = error_of(f"{tmp_path} --step newest")
  assert "--step is 'newest', but it must be latest, best or the number of a step" in error


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ("", "the following arguments are required: SOURCE"),
    ("RUN --top-k many", "argument --top-k: invalid int value: 'many'"),
    ("RUN --topk 8 --nothing", "unrecognized arguments: --topk 8 --nothing"),
  ],
)
def test_options_that_cannot_be_read_are_named(capsys, options, message):
  with pytest.raises(SystemExit) as exit:
    run_command(command.main, options.split())
  assert exit.value.code == 2
  assert message in capsys.readouterr().err
