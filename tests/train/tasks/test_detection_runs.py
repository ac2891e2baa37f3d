"""Runs of detection as a user starts them: killed, in two processes, evaluated, planned."""

import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest
from support import shallow_networks
from support.quick_jit import FLAGS, OPTIONS, STEP_FLAGS
from support.run_processes import start
from support.run_results import bits, lines

import pst_jax
from train import evaluate as evaluate_command
from train import loop
from train import plan as plan_command
from train.config import load_file
from train.data import digit_scenes
from train.options import parse
from train.planning import topologies
from train.run.checkpoints import restore
from train.run.folder import RunFolder
from train.setup import make_setup

REPOSITORY = pathlib.Path(__file__).parents[3]
PROGRAM = shallow_networks.__file__
"""Knows the network of these runs, which is quick to compile: what they show are runs."""
# 20 steps, saved after every fourth; from position 80 on, the eleventh step, there is no mosaic.
TINY = f"""configs/detection/digit_scenes.py --model.name {shallow_networks.DETECTOR}
  --model.width 0.125 --data.image-size 64
  --data.train-split train[:40] --data.eval-split test[:6] --data.mosaic 1 --data.mixup 0.5
  --data.close-mosaic-epochs 2 --data.max-boxes 64 --data.threads 1 --batch-size 8
  --eval-batch-size 8 --epochs 4 --eval-every-epochs 2 --checkpoint.every-epochs 0.8
  --eval-top-k 0 2 --suppression.max-detections 20 --log-every 1 --optim.name sgd
  --optim.learning-rate 0.001"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("scenes")
  digit_scenes.prepare(folder)
  return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
  """The config and the result of a run in this process that nothing interrupted."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
    # An image for each of the eight fake devices.
    options = f"{TINY} --model.batch-norm-group-size 1 --data.data-dir {data_dir}"
    short = "--epochs 1 --data.close-mosaic-epochs 0.5"
    path, *options = shlex.split(f"{options} {short} --run-dir {folder}")
    config = parse(load_file(path), path, options)
    return config, loop.train(config)


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)


@pytest.mark.slow
def test_its_log_has_the_terms_and_its_checkpoints_the_facts(whole):
  config, result = whole
  (last,) = [line for line in lines(config.run_dir) if line["step"] == 5 and "loss" in line]
  terms = last["box"] + last["classes"] + last["dfl"]
  assert last["loss"] == pytest.approx(config.batch_size * terms, rel=1e-5)
  assert {metrics["count"] for metrics in result.metrics.values()} == {6}
  found = pst_jax.convert.read_weights(config.run_dir)
  assert (found.metadata.task, found.metadata.model) == ("detection", shallow_networks.DETECTOR)
  assert found.metadata.class_names == tuple("0123456789")
  assert found.metadata.preprocessing["image_size"] == 64
  assert found.network().num_classes == 10


@pytest.mark.slow
def test_the_command_evaluates_it_and_writes_what_was_found(whole, tmp_path, capsys):
  config, result = whole
  capsys.readouterr()
  found, table = tmp_path / "found.json", tmp_path / "table.json"
  rules = "--top-k 0 2 --selection top_k random"
  evaluate_command.main(
    shlex.split(f"{config.run_dir} {rules} --detections {found} --json {table}")
  )
  out = capsys.readouterr().out
  assert "letterboxed to 64x64, one fixed size" in out
  assert "mAP50-95 %" in out
  names = ["k0-top_k", "k2-top_k", "k2-random"]
  values = {each["name"]: each for each in json.loads(table.read_text())["accuracy"]}
  assert list(values) == names
  assert {name: values["k0-top_k"][name] for name in result.metrics["k0"]} == pytest.approx(
    result.metrics["k0"]
  )
  for name in names:
    assert isinstance(json.loads((tmp_path / f"found-{name}.json").read_text()), list)


@pytest.mark.slow
def test_weights_in_a_file_are_evaluated_as_they_say(whole, data_dir, tmp_path, capsys):
  config, _ = whole
  weights = tmp_path / "scenes.safetensors"
  pst_jax.convert.write_weights(weights, pst_jax.convert.read_weights(config.run_dir))
  data = f"--dataset digit_scenes --data-dir {data_dir} --split test[:4] --batch-size 4"
  evaluate_command.main(shlex.split(f"{weights} {data} --top-k 0"))
  assert "images of 64x64" in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_planned(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr("train.planning.report.importlib.metadata.version", lambda name: "none")
  monkeypatch.setattr(topologies, "compiler_devices", lambda where: jax.devices()[:4])
  out = tmp_path / "plan.json"
  options = "--topology v5e:2x2 --num-train 64 --num-classes 10 --batch-size 16"
  model = "--model.width 0.125 --model.batch-norm-group-size 4 --data.image-size 64"
  model += f" --model.name {shallow_networks.DETECTOR}"
  plan_command.main(shlex.split(f"digit_scenes {options} {model} --json {out} --eval-top-k 0"))
  assert json.loads(out.read_text())["batch_size"] == 16
  assert shallow_networks.DETECTOR in capsys.readouterr().out


def command(data_dir, run_dir) -> subprocess.Popen:
  environment = os.environ | {"XLA_FLAGS": STEP_FLAGS}
  options = f"{TINY} --data.data-dir {data_dir}"
  return subprocess.Popen(
    [sys.executable, PROGRAM, "train", *shlex.split(f"{options} --run-dir {run_dir}")],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for_step(process, run_dir, step) -> None:
  path, deadline = run_dir / "metrics.jsonl", time.monotonic() + 900
  while f'"step": {step},' not in (path.read_text() if path.exists() else ""):
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def last_state(run_dir):
  folder = RunFolder(run_dir)
  setup = make_setup(folder.read_config(), 10, 40, jax.devices()[:1])
  restored = restore(folder.checkpoints, setup.abstract_state)
  assert restored.step == 20
  return jax.device_get(restored.state)


@pytest.mark.slow
def test_killed_three_times_across_the_closing_of_the_mosaic_it_ends_as_one_that_was_not(
  data_dir, tmp_path
):
  rng = random.Random(0)
  ends = {}
  for name, kills in (("whole", ()), ("killed", (6, rng.randrange(9, 12), 15))):
    run_dir = tmp_path / name
    for step in kills:
      process = command(data_dir, run_dir)
      wait_for_step(process, run_dir, step)
      process.send_signal(signal.SIGKILL)
      process.communicate()
    process = command(data_dir, run_dir)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    ends[name] = run_dir
  assert lines(ends["killed"]) == lines(ends["whole"])
  assert bits(last_state(ends["killed"])) == bits(last_state(ends["whole"]))


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(data_dir, tmp_path):
  options = (
    f"{TINY} --data.data-dir {data_dir} --model.dtype float64 --model.batch-norm-group-size 2 "
    "--epochs 1.2 --data.close-mosaic-epochs 0.6"
  )
  found = []
  for count, devices in ((1, 2), (2, 1)):
    run_dir = tmp_path / str(count)
    programs = [f"{PROGRAM} train"] * count
    given = f"{options} --run-dir {run_dir}"
    with start(given, count, devices, programs=programs, flags=FLAGS) as run:
      for code, _, errors in run.ends():
        assert code == 0, errors
    found.append(lines(run_dir))
  for one, two in zip(*found, strict=True):
    assert one == pytest.approx(two, rel=1e-10)
