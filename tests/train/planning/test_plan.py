"""The command, with the real TPU compiler where it is installed (pip install libtpu)."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import pytest
from support import programs

from pst_jax.errors import UserError
from train.config import Config, DataConfig, ModelConfig
from train.plan import _counts, with_largest_batch
from train.planning import compiling
from train.planning.compiling import Memory
from train.planning.topologies import find_slice

REPOSITORY = pathlib.Path(__file__).parents[3]
# A step that compiles in seconds.
TINY = (
  *("--model.name", "resnet18_pst", "--model.stem", "small", "--model.width", "0.125"),
  *("--model.dtype", "bfloat16", "--data.image-size", "16", "--data.synthetic-classes", "10"),
  *("--eval-top-k", "0"),
)


def plan(*arguments) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "train.plan", *arguments],
    cwd=REPOSITORY,
    env=os.environ | {"XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )


def test_a_wrong_topology_ends_in_one_sentence():
  done = plan("configs/synthetic.py", "--topology", "v5e:3x3")
  assert done.returncode == 2
  assert done.stderr.startswith("error: topology 'v5e:3x3' is unknown")
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("dataset", ["imagenet2012", "imagenet2012/short_side_400"])
def test_imagenet_needs_not_be_there_in_any_variant(dataset, tmp_path, capsys):
  config = Config(data=DataConfig(dataset=dataset, data_dir=str(tmp_path)))
  options = argparse.Namespace(num_train=None, num_classes=None)
  assert _counts(config, options) == (1_281_167, 1000)
  assert f"{dataset} is not in {tmp_path}: the plan is for" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_found_before_anything_is_compiled(tmp_path):
  options = ("--topology", "v5e:2x2", "--json", str(tmp_path / "nowhere" / "plan.json"))
  done = plan("configs/synthetic.py", *options)
  assert done.returncode == 2
  assert "nowhere does not exist; make it first" in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def tiny_plan(tmp_path_factory):
  pytest.importorskip("libtpu", reason="needs the TPU compiler (pip install libtpu)")
  file = tmp_path_factory.mktemp("plan") / "plan.json"
  done = plan(
    "configs/synthetic.py",
    *TINY,
    *("--topology", "v5e:2x4", "--batch-per-chip", "16"),
    *("--model.batch-norm-group-size", "4", "--accumulation-steps", "2", "--json", str(file)),
  )
  assert done.returncode == 0, done.stderr
  return done.stdout, json.loads(file.read_text())


@pytest.mark.slow
def test_a_step_is_compiled_for_a_slice(tiny_plan):
  text, figures = tiny_plan
  assert figures["fits"]
  assert (figures["devices"], figures["batch_size"]) == (8, 128)
  assert "fits:" in text
  # Forward and backward of 16 images; the micro-batches are a loop of two turns.
  assert figures["matrix_flops_per_device"] > 0
  assert figures["unknown_loops"] == []


@pytest.mark.slow
def test_chips_meet_at_most_three_times_a_step(tiny_plan):
  _, figures = tiny_plan
  assert {row["kind"] for row in figures["collectives"]} == {"all-reduce"}
  assert sum(row["count"] for row in figures["collectives"]) <= 3


def test_the_largest_batch_is_made_of_whole_groups_of_batch_norm(monkeypatch, capsys):
  usable, tried = find_slice("v5e:2x2").chip.usable_bytes, []

  def compile_step(config, num_classes, num_train, devices):
    tried.append(config.batch_size)
    needed = config.batch_size // 4 * usable // 500  # 500 images fill a chip
    if needed > usable:
      return programs.step(None, None, needed=needed)
    return programs.step(programs.program(), Memory(needed, 0, 0, 0, needed))

  monkeypatch.setattr(compiling, "compile_step", compile_step)
  model = ModelConfig(batch_norm_group_size=16)
  config = Config(batch_size=256, accumulation_steps=2, model=model)
  found = with_largest_batch(config, 1000, find_slice("v5e:2x2"), [])
  assert found.batch_size == 480 * 4
  assert all(size % (16 * 2 * 4) == 0 for size in tried)
  assert "480 images a chip fit: " in capsys.readouterr().out


def test_where_not_even_one_group_fits_it_is_said(monkeypatch):
  step = programs.step(None, None, needed=10**12)
  monkeypatch.setattr(compiling, "compile_step", lambda *_: step)
  with pytest.raises(UserError, match="not even 1 images a chip fit on v5e:2x2"):
    with_largest_batch(Config(), 1000, find_slice("v5e:2x2"), [])
