"""How often is an interrupted run exact? kill -9 and SIGTERM at random moments, then go on.

  python benchmarks/interruptions.py --tries 6                  one process
  python benchmarks/interruptions.py --tries 6 --processes 2    two, of which one is hit

A run is interrupted `tries` times, by the two signals in turn. A try is exact if all that the run
logs after it, until the next one, equals an uninterrupted run's to the bit; the last one also needs
the same digest of every array of the last checkpoint.
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

from train.checkpoint_files import read_record, saved_steps

REPOSITORY = pathlib.Path(__file__).parents[1]
CLOCK = ("_seconds", "images_per_second")
"""How the names of figures end that differ from run to run."""
OPTIONS = """configs/synthetic.py --model.name resnet18 --model.stem small --model.width 0.125
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
  """Waits for the step and a little more; returns who was hit, and how long the others lived."""
  while last_step(run_dir) < step:
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


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--tries", type=int, default=6)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--devices", type=int, default=4, help="fake devices of each process")
  parser.add_argument("--seed", type=int, default=0)
  asked = parser.parse_args()
  rng = random.Random(asked.seed)
  total_steps = 12 * (asked.tries + 1)
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
    expected, begun, exact = lines(whole), 1, []
    for attempt in range(asked.tries + 1):
      processes = begin(hit)
      try:
        if attempt < asked.tries:
          # A window of its own, so that there is something to compare after each interruption.
          step = rng.randrange(12 * attempt + 1, 12 * attempt + 7)
          number = (signal.SIGKILL, signal.SIGTERM)[attempt % 2]
          victim, seconds = interrupt(processes, hit, step, number, rng)
          codes = [process.returncode for process in processes]
          print(
            f"{number.name} to process {victim} after step {step}: all ended {seconds:.1f} s later "
            f"with {codes}; saved {saved_steps(hit / 'checkpoints')}",
            flush=True,
          )
        else:
          finish(processes)
      finally:
        for process in processes:
          process.kill()
          process.wait()
      if attempt:
        reached = last_step(hit)
        assert reached > begun or attempt == asked.tries
        logged = lines(hit)
        exact.append(logged == expected[: len(logged)])
        begun = reached
    records = [read_record(run / "checkpoints", total_steps)["leaves"] for run in (whole, hit)]
    exact[-1] = exact[-1] and records[0] == records[1]
  print(
    f"{asked.processes} process(es) x {asked.devices} device(s): "
    f"{sum(exact)} of {asked.tries} interruptions exact"
  )


if __name__ == "__main__":
  main()
