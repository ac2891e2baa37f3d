"""Runs of one or several processes, each with fake devices, as a user starts them."""

import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from support import shallow_networks

REPOSITORY = pathlib.Path(__file__).parents[2]
# Devices wait for one that a busy machine keeps waiting.
PATIENT = (
  "--xla_cpu_collective_timeout_seconds=600 --xla_cpu_collective_call_terminate_timeout_seconds=600"
)
# 15 steps, about 5 to the epoch; saved after 6, 11 and 15; 41 examples, which no batch divides. The
# learning rate is low because a higher one makes rounding grow from step to step.
TINY = """configs/synthetic.py --model.name shallow --model.stem small --model.width 0.125
  --model.dtype float64 --model.dropout 0.1 --data.image-size 16 --data.crop shift
  --data.max-shift 1 --data.synthetic-examples 41 --data.synthetic-classes 4 --data.threads 1
  --batch-size 8 --epochs 3 --eval-batch-size 16 --eval-top-k 0 --eval-every-epochs 2
  --ema-decay 0.9 --label-smoothing 0.1 --log-every 1 --checkpoint.every-epochs 1
  --optim.learning-rate 0.001"""


@dataclasses.dataclass
class Run:
  """Processes of one run; a context manager that leaves none behind."""

  processes: list[subprocess.Popen]

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *error) -> None:
    for process in self.processes:
      process.kill()
      process.communicate()

  def ends(self, timeout: float = 600) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each, when all have ended."""
    deadline = time.monotonic() + timeout
    texts = [
      process.communicate(timeout=max(1, deadline - time.monotonic())) for process in self.processes
    ]
    return [(p.returncode, *text) for p, text in zip(self.processes, texts, strict=True)]

  def wait_for_step(self, run_dir, step: int) -> None:
    """Until the step is logged, or a later one."""
    path, deadline = pathlib.Path(run_dir) / "metrics.jsonl", time.monotonic() + 600
    wanted = f'"step": {step},'
    while wanted not in (path.read_text() if path.exists() else ""):
      for process in self.processes:
        assert process.poll() is None, process.communicate()
      assert time.monotonic() < deadline
      time.sleep(0.01)

  def signal(self, index: int, number: int = signal.SIGTERM) -> None:
    self.processes[index].send_signal(number)


def start(
  options: str,
  count: int = 1,
  devices: int = 4,
  module: str = "train",
  programs: list[str] | None = None,
  patience: int = 1,
  flags: str = "",
) -> Run:
  """`python -m train OPTIONS` in `count` processes of this machine, which know shallow networks.

  Args:
    devices: fake ones, of each process.
    module: instead of train.
    programs: of each process, with its first arguments, instead of a module.
    patience: how many times longer than two processes many wait for each other.
    flags: more words of XLA_FLAGS.
  """
  environment = os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {PATIENT} {flags}",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
  }
  programs = programs or [f"{shallow_networks.__file__} {module}"] * count
  commands = [
    [sys.executable, *f"{program} {options} {own}".split()]
    for program, own in zip(programs, flags_of(count, patience), strict=True)
  ]
  return Run(
    [
      subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_signals,
      )
      for command in commands
    ]
  )


def _hear_signals() -> None:
  """What started the tests may ignore a signal, as nohup does, and a process inherits that."""
  for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)


def flags_of(count: int, patience: int = 1) -> list[str]:
  """The options by which the processes of one run find each other."""
  if count == 1:
    return [""]
  address = f"localhost:{free_port()}"
  return [
    f"--coordinator {address} --num-processes {count} --process-id {index} "
    f"--heartbeat-timeout {60 * patience} --join-timeout {120 * patience}"
    for index in range(count)
  ]


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]
