"""python -m train.plot, on folders as runs leave them."""

import json
import pathlib

import cv2
import numpy as np
import pytest

from pst_jax.errors import UserError
from train.config import Config
from train.config_values import to_json
from train.plot import draw, main
from train.run.history import read
from train.schema import EvalConfig

LINES = [
  {"step": 1, "loss": 2.0, "top1": 0.25, "learning_rate": 0.0, "grad_norm": 3.0},
  {"step": 5, "loss": "nan", "learning_rate": 0.1, "grad_norm": 2.0, "grad_norm_head": 1.0},
  {"step": 5, "images_per_second": 50.0, "model_flops_utilization": 0.3},
  {"step": 9, "eval/loss_coarse": 1.5, "eval/top1_coarse": 0.75, "eval/top1_fine": 0.5},
]


def write(folder, lines=LINES):
  config = Config(evals={"coarse": EvalConfig(0), "fine": EvalConfig(8)}, run_dir=str(folder))
  folder.mkdir()
  (folder / "config.json").write_text(to_json(config))
  (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
  return str(folder)


def curves(axes) -> dict[str, list]:
  return {
    line.get_label(): list(zip(*(each.tolist() for each in line.get_data()), strict=True))
    for line in axes.get_lines()
    if not np.isnan(line.get_xdata()).all()
  }


@pytest.fixture
def panels(tmp_path):
  """The curves of each panel, by what its vertical axis says."""
  figure = draw(read(write(tmp_path / "run")))
  return {each.get_ylabel(): curves(each) for each in figure.axes}


def test_loss_and_metrics_are_drawn_of_training_and_of_each_evaluation(panels):
  loss = panels["loss"]
  assert loss["in training"][0] == (1, 2.0)
  assert loss["evaluation coarse"] == [(9, 1.5)]
  assert panels["top-1 %"] == {
    "in training": [(1, 25.0)],
    "evaluation coarse": [(9, 75.0)],
    "evaluation fine": [(9, 50.0)],
  }


def test_learning_rate_norms_and_throughput_are_drawn(panels):
  assert panels["learning rate"]["learning rate"] == [(1, 0.0), (5, 0.1)]
  norms = panels["norm of the gradients"].values()
  assert sorted(map(len, norms)) == [1, 2]
  assert panels["images/s"]["images/s"] == [(5, 50.0)]
  assert list(panels["% of the peak"].values()) == [[(5, 30.0)]]


def test_a_run_of_old_has_the_panels_that_it_has_figures_for(tmp_path):
  figure = draw(read(write(tmp_path / "run", [{"step": 3, "loss": 1.0}])))
  found = [(each.get_ylabel(), len(curves(each))) for each in figure.axes if curves(each)]
  assert found == [("loss", 1)]


def test_each_run_has_a_picture_of_its_own_in_its_folder(tmp_path, capsys):
  runs = [write(tmp_path / name) for name in ("a", "b")]
  main(runs)
  for run in runs:
    assert cv2.imread(f"{run}/plot.png").std() > 5
  assert capsys.readouterr().out == "".join(f"written: {run}/plot.png\n" for run in runs)


def test_a_picture_is_replaced_with_force_alone(tmp_path):
  run = write(tmp_path / "a")
  (tmp_path / "a" / "plot.png").write_bytes(b"mine")
  with pytest.raises(UserError, match=r"plot\.png: this file exists and is kept"):
    main([run])
  main([run, "--force"])
  assert cv2.imread(f"{run}/plot.png") is not None


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_the_ending_of_the_output_decides_its_form(tmp_path, ending):
  main([write(tmp_path / "a"), "--output", str(tmp_path / f"p.{ending}")])
  start = (tmp_path / f"p.{ending}").read_bytes()[:5]
  assert start == {"svg": b"<?xml", "pdf": b"%PDF-"}[ending]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("{run} {run} --output p.png", "--output names one file, but 2 runs were given: give one"),
    ("{run} --output p.bmp", r"--output is p\.bmp, but its ending must be \.png, \.svg, \.pdf"),
    ("{run} nothing", r"nothing is no run folder: it has no config\.json"),
    ("{run} --output ''", "output is an empty text"),
  ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_drawn(tmp_path, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  run = write(tmp_path / "a")
  with pytest.raises(UserError, match=message):
    main([each.replace("''", "") for each in arguments.format(run=run).split()])
  assert not list(pathlib.Path().rglob("*.p*g"))
