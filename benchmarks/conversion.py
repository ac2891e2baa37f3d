"""Conversion of weights: how far the logits of both sides are apart, and what a conversion costs.

    python -m benchmarks.conversion                       # every network; takes a while to compile
    python -m benchmarks.conversion --models r18-cls-pst
    python -m benchmarks.conversion --models --costs-of r101-cls-pst

Agreement: the weights of the golden values run in Flax and in the PyTorch twin, in float32 on two
images of 224 pixels, with top_k 0 and 8. Costs: `python -m pst_jax convert` between all forms, each
in a fresh process, whose start and imports are included: time, CPU time, peak resident memory.
Needs the extras `train` and `torch`.
"""

import itertools
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

import torch

import pst_jax
import pst_jax.torch
from benchmarks.common import make_parser
from pst_jax.convert import Metadata, Weights, from_torch
from pst_jax.convert.state_dict import network_entries
from pst_jax.convert.verify import verify

REPOSITORY = pathlib.Path(__file__).parents[1]
OPTIONS = {"num_classes": 1000, "stem": "imagenet", "width": 1.0}
# The scales of norms with which the golden values of a family were made.
NORM_SCALES = {"yolo11": (0.7, 1.1)}


def golden_weights(name: str) -> Weights:
  fill = runpy.run_path(str(REPOSITORY / "tests/support/fill.py"))["fill"]
  network = pst_jax.create_model(name)
  scale = NORM_SCALES.get(network.family, (0.5, 0.9))
  entries = {e.name: fill(e.name, e.shape, scale) for e in network_entries(network)}
  return Weights(from_torch(network, entries), Metadata(name, OPTIONS, "golden"))


def print_agreement(names: list[str]) -> None:
  print(f"{'network':18s}{'top_k':>6s}{'max |difference|':>18s}{'/ deviation':>14s}")
  for name in names:
    for result in verify(golden_weights(name)):
      ratio = result.difference / result.deviation
      print(f"{name:18s}{result.top_k:6d}{result.difference:18.2e}{ratio:14.2e}", flush=True)


# The system counts a child's peak from its parent's size on; the high-water mark starts afresh.
LAUNCH = """
import atexit, re, runpy, sys, time
def report():
  status = open("/proc/self/status").read()
  print(time.process_time(), re.search(r"VmHWM:\\s*(\\d+)", status)[1], file=sys.stderr)
atexit.register(report)
import pst_jax
if sys.argv[1:]:
  runpy.run_module("pst_jax", run_name="__main__")
"""


def measured(*arguments: str) -> tuple[float, float, float]:
  """Seconds, seconds of CPU time and peak resident memory in MB of `python -m pst_jax ...`."""
  start = time.perf_counter()
  command = [sys.executable, "-c", LAUNCH, *arguments]
  done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
  seconds = time.perf_counter() - start
  if done.returncode:
    raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr}")
  cpu, peak = done.stderr.splitlines()[-1].split()
  return seconds, float(cpu), int(peak) / 1024


def print_costs(name: str) -> None:
  network = pst_jax.torch.create_model(name)
  with tempfile.TemporaryDirectory() as folder:
    forms = [f"{folder}/{file}" for file in ("half.pt", "a.safetensors", "orbax", "b.pt")]
    # As the authors release theirs: a pickled module in half precision.
    torch.save({"epoch": 1, "model": network.half()}, forms[0])
    size = sum(p.numel() for p in network.parameters()) * 4 / 2**20
    title = f"{name}, {size:.0f} MB in float32"
    print(f"\n{title:34s}{'seconds':>10s}{'CPU seconds':>14s}{'peak MB':>10s}")
    rows = {"imports alone": measured()}
    for source, dest in itertools.pairwise(forms):
      label = f"{pathlib.Path(source).name} -> {pathlib.Path(dest).name}"
      rows[label] = measured("convert", source, dest)
    for label, (seconds, cpu, peak) in rows.items():
      print(f"{label:34s}{seconds:10.1f}{cpu:14.1f}{peak:10.0f}")


def main() -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--models", nargs="*", default=pst_jax.list_models(), help="for agreement")
  parser.add_argument("--costs-of", default="r101-cls-pst", help="(default: %(default)s)")
  options = parser.parse_args()
  if options.models:
    print_agreement(options.models)
  print_costs(options.costs_of)


if __name__ == "__main__":
  main()
