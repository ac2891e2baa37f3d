"""launch/slurm.sh for real: two tasks that find each other by SLURM's environment, on loopback."""

import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest
from support import shallow_networks
from support.run_processes import PATIENT, REPOSITORY, TINY, free_port
from support.run_results import lines

# What slurmd gives to each task of a step. The real one would also pass signals on.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
  command.pop(0)
tasks = []
for index in range(2):
  step = {{"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_PROCID": str(index)}}
  tasks.append(subprocess.Popen(command, env=os.environ | step | {{"SLURM_LOCALID": str(index)}}))
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture
def cluster(tmp_path):
  """Its programs in a folder of their own; scontrol leaves a note."""
  programs = {
    "srun": SRUN.format(python=sys.executable),
    "squeue": "#!/bin/sh\necho RUNNING\n",
    "scontrol": f"#!/bin/sh\necho $* >>{tmp_path}/requeued\n",
    # Without -m, which the program of the shallow networks does not need.
    "python": f'#!/bin/sh\nshift\nexec {sys.executable} {shallow_networks.__file__} "$@"\n',
  }
  for name, text in programs.items():
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return tmp_path


def start(cluster: pathlib.Path) -> subprocess.Popen:
  """The batch script, as slurmd starts it on the first node."""
  environment = os.environ | {
    "PATH": f"{cluster}/bin:{os.environ['PATH']}",
    "SLURM_JOB_ID": "77",
    "SLURM_CPUS_PER_TASK": "1",
    "JAX_COORDINATOR_PORT": str(free_port()),  # else it follows from the job's number
    "RUN_DIR": str(cluster / "run"),
    "DATA_DIR": str(cluster / "data"),
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {PATIENT}",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
  }
  del environment["JAX_COMPILATION_CACHE_DIR"]  # the script has a folder of its own
  return subprocess.Popen(
    ["launch/slurm.sh", *TINY.split()],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


@pytest.mark.slow
def test_a_job_is_stopped_queued_again_and_goes_on_to_its_end(cluster):
  first = start(cluster)
  try:
    log, deadline = cluster / "run/metrics.jsonl", time.monotonic() + 400
    while not log.exists() or '"step": 2,' not in log.read_text():
      assert first.poll() is None, first.communicate()
      assert time.monotonic() < deadline
      time.sleep(0.05)
    # As --signal=TERM@120 says: the step gets it, and not the shell.
    children = pathlib.Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    (srun,) = map(int, children)
    os.kill(srun, signal.SIGTERM)
    out, err = first.communicate(timeout=200)
  finally:
    _end(first)
  assert first.returncode == 128 + signal.SIGTERM, err
  assert "in 2 processes" in out
  assert (cluster / "requeued").read_text() == "requeue 77\n"
  second = start(cluster)
  try:
    out, err = second.communicate(timeout=400)
  finally:
    _end(second)
  assert second.returncode == 0, err
  assert "goes on after step" in out
  assert lines(cluster / "run")[-1]["step"] == 15
  assert (cluster / "run-compiled").is_dir()


def _end(process) -> None:
  if process.poll() is None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
