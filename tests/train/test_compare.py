"""python -m train.compare, on folders as runs leave them."""

import dataclasses
import json

import cv2
import pytest

from pst_jax.errors import UserError
from train.compare import main
from train.config import Config
from train.config_values import to_json
from train.schema import EvalConfig

LINES = [
  {"step": 10, "loss": 2.0, "images_per_second": 50.0, "compute_seconds": 1.25},
  {"step": 20, "eval/top1_coarse": 0.75, "eval/top1_fine": 0.5},
  {"step": 30, "loss": 1.23456, "images_per_second": 70.0, "compute_seconds": 2.25},
  {"step": 40, "eval/top1_coarse": 0.7, "eval/top1_fine": "nan"},
]


def write(folder, lines=LINES, **changes):
  config = Config(evals={"coarse": EvalConfig(0), "fine": EvalConfig(8)}, run_dir=str(folder))
  folder.mkdir()
  (folder / "config.json").write_text(to_json(dataclasses.replace(config, **changes)))
  (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
  return str(folder)


@pytest.fixture
def runs(tmp_path):
  return [write(tmp_path / "a"), write(tmp_path / "b", LINES[:2], seed=7)]


def rows(out):
  return {line[:24].strip(): line[24:].split() for line in out.splitlines()[1:]}


def test_options_that_differ_metrics_and_time_stand_side_by_side(runs, capsys):
  main(runs)
  found = rows(capsys.readouterr().out)
  assert found == {
    "seed": ["0", "7"],
    "step": ["40", "20"],
    "top-1 % coarse": ["70.0", "75.0"],
    "top-1 % coarse, best": ["75.0", "75.0"],
    "top-1 % fine": ["nan", "50.0"],
    "top-1 % fine, best": ["50.0", "50.0"],
    "loss": ["1.2346", "2.0"],
    "images/s": ["60.0", "50.0"],
    "s computing": ["3.5", "1.2"],
  }


def test_a_line_that_is_being_written_is_left_out(runs, tmp_path, capsys):
  with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 50, "lo')
  main(runs)
  assert rows(capsys.readouterr().out)["step"] == ["40", "20"]


def test_the_table_is_written_as_json_and_the_curves_are_drawn(runs, tmp_path):
  main([*runs, "--json", str(tmp_path / "t.json"), "--plot", str(tmp_path / "p.png")])
  assert json.loads((tmp_path / "t.json").read_text())["seed"] == {runs[0]: 0, runs[1]: 7}
  assert cv2.imread(str(tmp_path / "p.png")).std() > 5


def test_what_is_no_run_or_has_no_line_is_named(runs, tmp_path):
  with pytest.raises(UserError, match=r"nothing is no run folder: it has no config\.json"):
    main([runs[0], str(tmp_path / "nothing")])
  with pytest.raises(UserError, match=r"metrics\.jsonl has no line yet: wait until"):
    main([write(tmp_path / "new", [])])
  (tmp_path / "new" / "metrics.jsonl").unlink()
  with pytest.raises(UserError, match=r"cannot be read .* give runs that have begun"):
    main([str(tmp_path / "new")])


def test_runs_of_different_tasks_are_not_compared(runs, tmp_path):
  from train.tasks.detection.config import Config as Boxes

  folder = tmp_path / "boxes"
  folder.mkdir()
  (folder / "config.json").write_text(to_json(Boxes()))
  (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
  with pytest.raises(UserError, match="the runs are of different tasks"):
    main([runs[0], str(folder)])
