"""The command, with the real TPU compiler where it is installed (pst_jax[tpu-plan])."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

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


@pytest.fixture(scope="module")
def tiny_plan(tmp_path_factory):
  pytest.importorskip("libtpu", reason="needs the TPU compiler (pst_jax[tpu-plan])")
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


@pytest.mark.slow
def test_the_largest_batch_is_searched_for(tmp_path):
  pytest.importorskip("libtpu", reason="needs the TPU compiler (pst_jax[tpu-plan])")
  file = tmp_path / "plan.json"
  done = plan(
    "configs/synthetic.py",
    *TINY,
    *("--topology", "v5e:1x1", "--batch-per-chip", "4096", "--search-batch", "--json", str(file)),
    *("--data.image-size", "128"),
  )
  assert done.returncode == 0, done.stderr
  assert "do not fit" in done.stdout
  assert json.loads(file.read_text())["fits"]
