"""A task of one's own, in a folder of its own: nothing else is edited for it."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.brightness_task.config import Config
from support.brightness_task.task import TASK
from support.quick_jit import STEP_OPTIONS
from support.run_results import bits, lines

import pst_jax
from train import evaluate as evaluate_command
from train import loop
from train import plan as plan_command
from train.config import from_json, load_file
from train.config_values import to_json
from train.data import train_batches
from train.evaluation.evaluator import evaluate
from train.planning import topologies
from train.schema import EvalConfig, ModelConfig, OptimConfig
from train.setup import make_setup
from train.sharding import put_batch

REPOSITORY = pathlib.Path(__file__).parents[3]
FILE = """
from support.brightness_task.config import Config
from train import schema

config = Config(
  run_dir={run_dir!r},
  epochs=0.1,
  batch_size=16,
  eval_batch_size=16,
  eval_every_epochs=0.05,
  evals={{"coarse": schema.EvalConfig(0), "fine": schema.EvalConfig(1, "random")}},
  log_every=1,
  model=schema.ModelConfig(
    name="shallow_pst", stem="small", width=0.125, batch_norm_group_size=8
  ),
  data=schema.DataConfig(
    dataset="digits", data_dir={data_dir!r}, eval_split="test[:50]", image_size=8, threads=1
  ),
  optim=schema.OptimConfig(learning_rate=0.01),
  checkpoint=schema.CheckpointConfig(every_epochs=0.03),
)
"""
# 9 steps: saved after 3, 6 and 9, evaluated after 5 and 9.


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: STEP_OPTIONS)
    yield


def config_file(folder, digits_dir, name) -> pathlib.Path:
  path = folder / f"{name}.py"
  path.write_text(FILE.format(run_dir=str(folder / name), data_dir=str(digits_dir)))
  return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_dir):
  """The config and the result of an uninterrupted run."""
  config = load_file(config_file(tmp_path_factory.mktemp("runs"), digits_dir, "whole"))
  return config, loop.train(config)


def test_it_learns_and_its_own_metric_is_logged(whole):
  config, result = whole
  found = lines(config.run_dir)
  assert found[-1]["eval/median_error_coarse"] == result.metrics["coarse"]["median_error"]
  assert result.metrics["fine"]["count"] == 50
  losses = [line["loss"] for line in found if "loss" in line]
  assert losses[-1] < losses[0] / 2
  assert all(line["error"] >= 0 for line in found if "loss" in line)


def test_a_saved_config_comes_back_as_the_tasks_own(whole):
  config, _ = whole
  text = (pathlib.Path(config.run_dir) / "config.json").read_text()
  assert json.loads(text)["task"] == "support.brightness_task.task:TASK"
  assert from_json(text) == config == from_json(to_json(config))
  assert type(from_json(text)) is Config


@pytest.mark.slow
def test_killed_it_resumes_bit_for_bit(whole, tmp_path, digits_dir):
  """Killed by SIGKILL in a process of its own, right before step 5."""
  config, result = whole
  file = config_file(tmp_path, digits_dir, "killed")
  script = f"""
import os, signal, sys
sys.path[:0] = [{str(REPOSITORY / "tests")!r}]
import pst_jax
from support import shallow_networks
from support.quick_jit import STEP_OPTIONS
pst_jax.compiler_options = lambda platform=None: STEP_OPTIONS
shallow_networks.install()
from train import config, loop
def die(step):
  if step == 5:
    os.kill(os.getpid(), signal.SIGKILL)
  return False
loop.train(config.load_file({str(file)!r}), die)
"""
  killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=dict(os.environ))
  assert killed.returncode == -signal.SIGKILL
  resumed = loop.train(load_file(file))
  assert bits(resumed.state) == bits(result.state)
  assert lines(tmp_path / "killed") == lines(config.run_dir)
  assert resumed.metrics == result.metrics


def test_it_is_planned(whole, tmp_path, digits_dir, monkeypatch, capsys):
  monkeypatch.setattr("train.planning.report.importlib.metadata.version", lambda name: "none")
  # Compiled for the CPU: the TPU's compiler, whose version the plan tells, is not everywhere.
  monkeypatch.setattr(topologies, "compiler_devices", lambda where: jax.devices()[:4])
  monkeypatch.setattr(importlib.metadata, "version", lambda package: f"of {package}")
  file, out = config_file(tmp_path, digits_dir, "planned"), tmp_path / "plan.json"
  plan_command.main(
    shlex.split(f"{file} --topology v5e:2x2 --batch-size 32 --json {out} --eval-top-k 0")
  )
  assert json.loads(out.read_text())["batch_size"] == 32
  assert "shallow_pst" in capsys.readouterr().out


def test_a_run_is_evaluated_by_the_command(whole, capsys):
  config, result = whole
  capsys.readouterr()
  evaluate_command.main([config.run_dir])
  out = capsys.readouterr().out
  assert "median error" in out
  for name, metrics in result.metrics.items():
    assert f"{metrics['median_error']:.4f}" in next(
      line for line in out.splitlines() if f" {name} " in line
    )


# In float64: a weight that depends on the data is exact however the batch is cut.

SMALL = Config(
  epochs=1,
  batch_size=16,
  eval_batch_size=8,
  dark_weight=0.1,
  evals={"coarse": EvalConfig(0), "random": EvalConfig(2, "random")},
  model=ModelConfig(
    name="shallow_pst", stem="small", width=0.5, dtype="float64", batch_norm_group_size=2
  ),
  data=dataclasses.replace(
    Config().data, dataset="synthetic", synthetic_examples=37, image_size=16, threads=1
  ),
  optim=OptimConfig(learning_rate=0.05),
)


def unequal(batch):
  """Images that grow brighter along the batch, so that no two devices have the same weight."""
  images = (batch["image"] * np.linspace(0, 1, 16)[:, None, None, None]).astype(np.uint8)
  return {"image": images, "brightness": (images.mean((1, 2, 3)) / 255).astype(np.float32)}


@functools.cache
def trained(devices, fsdp, steps):
  with jax.enable_x64(True):
    config = dataclasses.replace(SMALL, fsdp=fsdp, accumulation_steps=steps)
    dataset = TASK.open(config)
    setup = make_setup(config, 1, dataset.num_train, jax.devices()[:devices])
    state, metrics = setup.initial_state(), []
    parts = {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params)}
    assert (False in parts) == (fsdp > 1)
    batches = train_batches(dataset, config.data, seed=0, batch_size=16, first_step=0)
    for _ in range(2):
      state, each = setup.train_step(state, put_batch(unequal(next(batches)), setup.mesh))
      metrics.append(jax.device_get(each))
    return setup, dataset, jax.device_get(state), metrics


@pytest.mark.parametrize(("devices", "fsdp", "steps"), [(8, 1, 1), (8, 4, 1), (2, 1, 4)])
def test_a_weight_that_depends_on_the_data_is_exact(devices, fsdp, steps):
  _, _, state, metrics = trained(devices, fsdp, steps)
  _, _, expected, expected_metrics = trained(1, 1, 1)
  for a, e in zip(
    jax.tree.leaves((state, metrics)), jax.tree.leaves((expected, expected_metrics)), strict=True
  ):
    assert np.max(np.abs(a - e)) <= 1e-10 * max(np.max(np.abs(e)), 1e-5)


def test_a_metric_that_is_no_sum_and_a_random_rule_are_the_same_on_any_devices():
  variables = trained(1, 1, 1)[2].variables
  with jax.enable_x64(True):
    one, eight = (
      evaluate(*[setup, variables, dataset])
      for setup, dataset, *_ in (trained(1, 1, 1), trained(8, 1, 1))
    )
  assert {metrics["count"] for metrics in eight.values()} == {37}
  for name in SMALL.evals:
    assert eight[name] == pytest.approx(one[name], rel=1e-9)
