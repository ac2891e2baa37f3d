"""Several processes train one run: as one process does, and through every kind of end."""

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from support import another_machine, shallow_networks
from support.run_processes import REPOSITORY, TINY, Run, flags_of, free_port, start
from support.run_results import assert_close, bits, last_state, lines

LAST = 15


@dataclasses.dataclass(frozen=True)
class Runs:
  """Run folders: `one` of one process with 8 devices, `two` of two processes with 4 each, `hit` of
  two that were interrupted twice, `fewer` of the same after the first interruption in one process
  with 2 devices; what the interrupted ones ended with."""

  folder: pathlib.Path
  sigterm: list
  sigkill: list

  def __truediv__(self, name: str) -> pathlib.Path:
    return self.folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
  folder = tmp_path_factory.mktemp("processes")

  def begin(name, **processes):
    return start(f"{TINY} --run-dir {folder}/{name}", **processes)

  def finish(run):
    with run:
      for code, _, err in run.ends():
        assert code == 0, err

  finish(begin("two", count=2))
  finish(begin("one", devices=8))
  with begin("hit", count=2) as run:
    run.wait_for_step(folder / "hit", 2)
    run.signal(1, signal.SIGTERM)
    sigterm = run.ends()
  shutil.copytree(folder / "hit", folder / "fewer")
  with begin("hit", count=2) as run:
    run.wait_for_step(folder / "hit", 8)
    run.signal(1, signal.SIGKILL)
    sigkill = run.ends(timeout=30)
  finish(begin("hit", count=2))
  finish(begin("fewer", devices=2))
  return Runs(folder, sigterm, sigkill)


@pytest.mark.slow
def test_two_processes_train_to_the_state_of_one(runs):
  assert_close(last_state(runs / "two"), last_state(runs / "one"))


@pytest.mark.slow
def test_two_processes_count_every_example_once(runs):
  counts = {
    line["step"]: line["eval/count_k0"] for line in lines(runs / "two") if "loss" not in line
  }
  assert counts == {11: 41, LAST: 41}


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_the_same_step(runs):
  assert [code for code, _, _ in runs.sigterm] == [128 + signal.SIGTERM] * 2
  said = re.findall(r"stopped at step (\d+) of 15, which is saved", runs.sigterm[0][2])
  assert len(said) == 1
  assert "stopped at" not in runs.sigterm[1][2]
  assert "goes on after step " + said[0] in runs.sigkill[0][1]


@pytest.mark.slow
def test_the_loss_of_a_process_ends_the_other_with_a_sentence(runs):
  code, _, err = runs.sigkill[0]
  assert code == 1
  assert "error: process 1 of 2 has ended without a word" in err
  assert "Traceback" not in err
  assert "Check failure stack trace" not in err


@pytest.mark.slow
def test_an_interrupted_run_of_two_processes_ends_as_one_that_was_not(runs):
  assert lines(runs / "hit") == lines(runs / "two")
  assert bits(last_state(runs / "hit")) == bits(last_state(runs / "two"))


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_devices(runs):
  assert_close(last_state(runs / "fewer"), last_state(runs / "one"))


@pytest.mark.slow
def test_only_the_first_process_prints(runs):
  _, out, _ = runs.sigterm[1]
  # What is left is of Gloo, the library under JAX's collectives on the CPU.
  assert not re.search("step|images|run", out)


@pytest.mark.slow
def test_two_processes_evaluate_as_the_training_did(runs):
  with start(f"{runs / 'two'}", count=2, module="train.evaluate") as run:
    (code, first, err), (_, second, _) = run.ends()
  assert code == 0, err
  (row,) = [line.split() for line in first.splitlines() if line.startswith("    0 ")]
  last = lines(runs / "two")[-1]
  assert row[1:] == [
    f"{100 * last['eval/top1_k0']:.2f}",
    f"{100 * last['eval/top5_k0']:.2f}",
    f"{last['eval/loss_k0']:.4f}",
    "41",
  ]
  assert "top_k" not in second


@pytest.mark.slow
def test_processes_that_evaluate_something_else_are_told(runs):
  program = f"{shallow_networks.__file__} train.evaluate {runs / 'two'}"
  with start("", count=2, programs=[program, f"{program} --batch-size 5"]) as run:
    (first, _, _), (second, _, err) = run.ends()
  assert 0 not in (first, second)
  assert "process 1 was given another config than process 0 (eval_batch_size: 16 -> 5)" in err


# Ends without training: processes that join, and then one of them fails

JOINED = """
import argparse, os, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
from pst_jax.errors import run_command
from pst_jax.errors import UserError
from train.processes.join import add_options, from_options, init_processes
from jax.experimental import multihost_utils

index, failing, *given = sys.argv[1:]
parser = argparse.ArgumentParser()
add_options(parser)

def main(arguments):
  with init_processes(from_options(parser.parse_args(given))):
    multihost_utils.sync_global_devices("begin")
    print("begun", flush=True)
    if index == failing:
      raise UserError("the folder is in use")
    multihost_utils.sync_global_devices("end")
    if failing == "killed":
      time.sleep(60)

run_command(main, [])
"""


def joining(failing="nobody", environments=({}, {}), flags=None) -> Run:
  """Two processes that do nothing but join."""
  return Run(
    [
      subprocess.Popen(
        [sys.executable, "-c", JOINED, str(index), str(failing), *each.split()],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for index, (environment, each) in enumerate(
        zip(environments, flags or flags_of(2), strict=True)
      )
    ]
  )


def test_the_tasks_of_slurm_join_by_themselves():
  # JAX takes the coordinator's port from the number of the job.
  job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
  tasks = [job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
  with joining(environments=tasks, flags=["", ""]) as run:
    ends = run.ends(timeout=60)
  assert [code for code, _, _ in ends] == [0, 0], ends
  assert all("begun" in out for _, out, _ in ends)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_mistake_that_one_process_sees_ends_all_in_moments(failing):
  with joining(failing) as run:
    ends = run.ends(timeout=60)
  assert [code for code, _, _ in ends] == [2, 2]
  errors = [err for _, _, err in ends]
  assert "error: the folder is in use\n" in errors[failing]
  assert f"error: process {failing} of 2 stopped: the folder is in use\n" in errors[1 - failing]
  assert "Traceback" not in errors[0] + errors[1]


def test_the_loss_of_the_first_process_is_told_by_the_other():
  """Process 0 holds JAX's coordination service: with it JAX would abort the other at once."""
  with joining(failing="killed") as run:
    for process in run.processes:
      while "begun" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    run.signal(0, signal.SIGKILL)
    code, _, err = run.ends(timeout=60)[1]
  assert code == 1
  assert "error: process 0 of 2 has ended without a word" in err


def test_processes_that_do_not_come_are_not_waited_for_for_ever(tmp_path):
  command = f"{TINY} --run-dir {tmp_path} --coordinator localhost:{free_port()} --num-processes 2"
  ended = subprocess.run(
    [sys.executable, "-m", "train", *command.split(), "--process-id", "0", "--join-timeout", "2"],
    cwd=REPOSITORY,
    env=os.environ | {"JAX_ENABLE_X64": "1"},
    capture_output=True,
    text=True,
    timeout=100,
  )
  assert ended.returncode == 2, ended.stderr
  assert "error: the processes of this run did not come together at localhost:" in ended.stderr
  assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(not another_machine.is_possible(), reason="it takes root to be two machines")
def test_two_machines_train_one_run(tmp_path):
  """For XLA they are two slices, which `jax.make_mesh` refuses."""
  program = f"{another_machine.__file__} {shallow_networks.__file__} train"
  short = f"{TINY} --epochs 1 --fsdp 2 --run-dir {tmp_path}/run"
  with start(short, count=2, devices=2, programs=[program] * 2) as run:
    for code, _, err in run.ends():
      assert code == 0, err
  assert lines(tmp_path / "run")[-1]["step"] == 5
