"""How often is an interrupted run exact? Signals at random moments, again and again, then go on.

  python benchmarks/interruptions.py --tries 20                              one process
  python benchmarks/interruptions.py --tries 20 --processes 2 --devices 2    two; one is hit

One run is interrupted `tries` times, so that all starts but the first are of a resumed run: by
SIGKILL, SIGTERM, SIGINT and SIGHUP in turn, twice after a step and then once while it starts. A try
has held if the processes end as promised, and if all that the run logs afterwards, until the next
try, equals an uninterrupted run's to the bit; the last one also needs the same checksum of every
array of the last checkpoint.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

from pst_jax.checkpoints.layout import read_record, saved_steps

REPOSITORY = pathlib.Path(__file__).parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CLOCK = ("_seconds", "images_per_second", "model_flops_utilization", "peak_bytes")
"""How the names of figures end that differ from run to run."""
OPTIONS = """synthetic --model.name resnet18 --model.stem small --model.width 0.125
  --model.dropout 0.1 --data.image-size 8 --data.crop shift --data.max-shift 1
  --data.synthetic-examples 64 --data.synthetic-classes 4 --data.threads 1 --batch-size 8
  --eval-batch-size 16 --eval-top-k 0 --eval-every-epochs 4 --checkpoint.every-epochs 1
  --ema-decay 0.9 --log-every 1"""


def start(options, processes, devices, cache, errors) -> list[subprocess.Popen]:
  flags = [
    f"--xla_force_host_platform_device_count={devices}",
    "--xla_backend_optimization_level=0",
    # A busy machine may keep a process waiting for long.
    "--xla_cpu_collective_timeout_seconds=600",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
  ]
  environment = os.environ | {
    "XLA_FLAGS": " ".join(flags),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  return [
    subprocess.Popen(
      [
        *(sys.executable, "-m", "train", *options.split(), "--num-processes", str(processes)),
        *("--coordinator", address, "--process-id", str(index), "--heartbeat-timeout", "60"),
      ],
      cwd=REPOSITORY,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=open(f"{errors}.{index}", "w"),
    )
    for index in range(processes)
  ]


def lines(run_dir) -> list[dict]:
  """metrics.jsonl without what depends on the clock; a line that is being written is left out."""
  path = run_dir / "metrics.jsonl"
  text = path.read_text() if path.exists() else ""
  found = [json.loads(line) for line in text.split("\n")[:-1]]
  return [{name: x for name, x in line.items() if not name.endswith(CLOCK)} for line in found]


def last_step(run_dir) -> int:
  return max((line["step"] for line in lines(run_dir)), default=0)


def interrupt(processes, run_dir, step, number, rng) -> tuple[int, float]:
  """Waits for the step and a little more; returns who was hit, and how long the others lived.

  Args:
    step: None: a moment of the start instead, which comes to its first step after some seconds.
  """
  if step is None:
    time.sleep(rng.uniform(4, 12))
  while step is not None and last_step(run_dir) < step:
    ended = [process.poll() for process in processes]
    if ended != [None] * len(processes):
      errors = [path.read_text() for path in sorted(run_dir.parent.glob("errors.*"))]
      raise SystemExit(f"ended before the interruption with {ended}: {errors}")
    time.sleep(0.01)
  time.sleep(rng.uniform(0, 0.3))
  victim = rng.randrange(len(processes))
  processes[victim].send_signal(number)
  began = time.monotonic()
  for process in processes:
    process.wait(timeout=600)
  return victim, time.monotonic() - began


def ended_as_promised(codes: list[int], victim: int, number: int, is_starting: bool) -> bool:
  """A kill ends the victim, and the others with an error; the other signals stop all alike."""
  if number == signal.SIGKILL:
    return codes[victim] == -number and 0 not in codes
  if is_starting and codes[victim] == -number:  # before Python had come to the handlers
    return 0 not in codes
  return codes == [128 + number] * len(codes)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--tries", type=int, default=6)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--devices", type=int, default=4, help="fake devices of each process")
  parser.add_argument("--seed", type=int, default=0)
  asked = parser.parse_args()
  # What a shell's `&` or nohup have set to be ignored, the runs would ignore too.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGHUP, lambda *_: None)
  rng = random.Random(asked.seed)
  total_steps = 24 * (asked.tries + 1)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    whole, hit = folder / "whole", folder / "hit"

    def begin(run_dir):
      options = f"{OPTIONS} --epochs {total_steps / 8} --run-dir {run_dir}"
      return start(options, asked.processes, asked.devices, folder / "cache", folder / "errors")

    def finish(processes):
      codes = [process.wait() for process in processes]
      if any(codes):
        errors = [path.read_text() for path in sorted(folder.glob("errors.*"))]
        raise SystemExit(f"ended with {codes}: {errors}")

    finish(begin(whole))
    expected, held = lines(whole), []
    for attempt in range(asked.tries + 1):
      processes = begin(hit)
      try:
        if attempt < asked.tries:
          is_starting = attempt % 3 == 2
          step = None if is_starting else last_step(hit) + rng.randrange(1, 7)
          number = SIGNALS[attempt % len(SIGNALS)]
          victim, seconds = interrupt(processes, hit, step, number, rng)
          codes = [process.returncode for process in processes]
          as_promised = ended_as_promised(codes, victim, number, is_starting)
          print(
            f"{number.name} to process {victim} {'while starting' if is_starting else 'running'}, "
            f"at step {last_step(hit)}: all ended {seconds:.1f} s later with {codes}"
            f"{'' if as_promised else ', NOT AS PROMISED'}; saved "
            f"{saved_steps(hit / 'checkpoints')}",
            flush=True,
          )
        else:
          finish(processes)
      finally:
        for process in processes:
          process.kill()
          process.wait()
      logged = lines(hit)
      is_exact = logged == expected[: len(logged)]
      if attempt:
        held[-1] = held[-1] and is_exact
      if attempt < asked.tries:
        held.append(as_promised)
    records = [read_record(run / "checkpoints", total_steps)["leaves"] for run in (whole, hit)]
    held[-1] = held[-1] and records[0] == records[1]
  print(
    f"{asked.processes} process(es) x {asked.devices} device(s): "
    f"{sum(held)} of {asked.tries} interruptions held"
  )


if __name__ == "__main__":
  main()
