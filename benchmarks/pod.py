"""A run on thousands of chips on paper, from a plan of train.plan: exchanges, data, failures.

  python -m train.plan imagenet_pod --topology v5p:16x16x16 --batch-per-chip 8 --json plan.json
  python -m benchmarks.pod plan.json
  python -m benchmarks.pod plan.json --slices 16     # as many slices, joined by the data centre

Nothing is measured here. A step takes the least time that the plan gives, or --step-seconds: a
slower step needs less of everything else. What is assumed of machines are options, printed with
their values. Chips fail independently, as seldom as those of arXiv 2407.21783 (table 5): 419
unexpected interruptions in 54 days of 16,384 GPUs. The interval between saves, and the time that
is lost, are J. T. Daly's: A higher order estimate of the optimum checkpoint interval for restart
dumps, Future Generation Computer Systems 22 (2006), 303-312. Young's is its first term.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys

from benchmarks.common import make_parser
from pst_jax.errors import UserError, run_command
from train.planning.chips import HOP_LATENCY
from train.planning.topologies import find_slice

HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What the plan does not know; each is an option."""

  slices: int = 1  # of the plan's kind
  step_seconds: float | None = None  # measured; default: the plan's least time
  dcn_bytes: float = 3.125e9  # bytes/s of a chip to other slices: 6.4 Tb/s a pod of 256 v5e
  images_per_cpu: float = 220.0  # a second of one hardware thread, by benchmarks.input_pipeline
  image_bytes: float = 110e3  # of a record: ImageNet's mean
  write_bytes: float = 0.5e9  # bytes/s that one host writes of a checkpoint
  read_bytes: float = 0.5e9  # bytes/s that every host reads of one, all at once
  restart_seconds: float = 600.0  # until the steps go on, without reading: machines, JAX, compiling
  chip_hours: float = 54 * 24 * 16384 / 419  # between two failures of one chip


def exchanges(plan: dict, given: Assumptions) -> list[dict]:
  """Of each kind of collective in a step: hops, and seconds by hops, links and data centre."""
  topology, rows = find_slice(plan["topology"]), []
  for row in plan["collectives"]:
    wires = topology.wires(row["group"])
    passes = 2 if row["kind"] == "all-reduce" else 1
    hops = round(wires.latency / HOP_LATENCY) * passes * row["count"]
    # What the slice has summed crosses once more between slices, a part of it from each chip.
    share = (given.slices - 1) / given.slices * row["bytes"] / plan["chips"]
    rows.append(
      {
        "kind": row["kind"],
        "count": row["count"],
        "bytes": row["bytes"],
        "hops": hops,
        "hop_seconds": hops * HOP_LATENCY,
        "link_seconds": row["least_seconds"] - hops * HOP_LATENCY,
        "dcn_seconds": passes * share / given.dcn_bytes,
      }
    )
  return rows


def step_seconds(plan: dict, given: Assumptions) -> float:
  """The time of a step: measured, or the least of the plan and of the data centre's network."""
  least = max(
    plan["roofline_seconds"]["least"], sum(row["dcn_seconds"] for row in exchanges(plan, given))
  )
  return given.step_seconds or least


def input_pipeline(plan: dict, given: Assumptions) -> dict:
  """What the hosts have to read and decode so that no chip waits."""
  chip = find_slice(plan["topology"]).chip
  chips = plan["chips"] * given.slices
  hosts = max(1, chips // chip.chips_per_host)
  rate = plan["batch_size"] * given.slices / step_seconds(plan, given)
  return {
    "hosts": hosts,
    "images_per_second": rate,
    "images_per_second_per_host": rate / hosts,
    "cpus_needed_per_host": rate / hosts / given.images_per_cpu,
    "cpus_per_host": chip.host_cpus,
    "bytes_per_second": rate * given.image_bytes,
  }


def checkpoint(plan: dict, given: Assumptions) -> dict:
  """At most: one host writes the state, where Orbax splits large arrays; all hosts read it all."""
  hosts = input_pipeline(plan, given)["hosts"]
  return {
    "bytes": plan["state_bytes"],
    "save_seconds": plan["state_bytes"] / given.write_bytes,
    "restore_seconds": plan["state_bytes"] / given.read_bytes,
    "restore_bytes": plan["state_bytes"] * hosts,
  }


def daly_interval(save: float, mean: float) -> float:
  """Seconds of steps between two saves that lose least; `mean` between two failures."""
  ratio = save / (2 * mean)
  if ratio >= 1:
    return mean
  return math.sqrt(2 * save * mean) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def useful_share(interval: float, save: float, restart: float, mean: float) -> float:
  """The part of the time in which steps are made that count, with failures at random moments."""
  spent = mean * math.exp(restart / mean) * math.expm1((interval + save) / mean)
  return interval / spent


def failures(plan: dict, given: Assumptions) -> dict:
  """How often to save, and what is lost to saves, repeated steps and restarts."""
  chips, saved = plan["chips"] * given.slices, checkpoint(plan, given)
  mean = given.chip_hours * HOUR / chips
  restart = given.restart_seconds + saved["restore_seconds"]
  interval = daly_interval(saved["save_seconds"], mean)
  step = step_seconds(plan, given)
  return {
    "mean_seconds": mean,
    "restart_seconds": restart,
    "young_seconds": math.sqrt(2 * saved["save_seconds"] * mean),
    "interval_seconds": interval,
    "interval_steps": interval / step,
    "interval_epochs": interval / step / plan["steps_per_epoch"] * given.slices,
    "useful_share": useful_share(interval, saved["save_seconds"], restart, mean),
    "useful_share_saving_hourly": useful_share(HOUR, saved["save_seconds"], restart, mean),
    "run_seconds": plan["steps"] / given.slices * step,
    "no_failure": math.exp(-plan["steps"] / given.slices * step / mean),
  }


def text(plan: dict, given: Assumptions) -> str:
  data, saved, lost = (part(plan, given) for part in (input_pipeline, checkpoint, failures))
  step, chips = step_seconds(plan, given), plan["chips"] * given.slices
  rows = [
    f"  {row['kind']:<14} {row['count']:>4,} a step, {row['bytes'] / 1e6:,.1f} MB from each "
    f"device; {row['hops']:,} hops {row['hop_seconds'] * 1e6:,.0f} us, links "
    f"{row['link_seconds'] * 1e6:,.0f} us, between slices {row['dcn_seconds'] * 1e6:,.0f} us"
    for row in exchanges(plan, given)
  ]
  cpus = data["cpus_needed_per_host"] / data["cpus_per_host"]
  every = (
    f"{lost['interval_steps']:,.0f} steps, --checkpoint.every-epochs {lost['interval_epochs']:.3g}"
  )
  if lost["interval_seconds"] > lost["run_seconds"]:
    every = "longer than the run, so at its end"
  short = f"; they suffice for a step of {step * cpus * 1e3:,.1f} ms" if cpus > 1 else ""
  assumed = dataclasses.asdict(given) | {"step_seconds": step}
  return f"""\
{plan["model"]} on {chips:,} chips: {given.slices} x {plan["topology"]}, \
{plan["batch_per_chip"]:g} images a chip, {plan["batch_size"] * given.slices:,} in all
a step takes {step * 1e3:,.2f} ms, {"as given" if given.step_seconds else "the least of the plan"}

COLLECTIVES of a step
{chr(10).join(rows or ["  none"])}

INPUT PIPELINE
  {data["images_per_second"]:,.0f} images/s, {data["bytes_per_second"] / 1e9:,.1f} GB/s from storage
  {data["hosts"]:,} hosts: {data["images_per_second_per_host"]:,.0f} images/s each, \
{data["cpus_needed_per_host"]:,.0f} of its {data["cpus_per_host"]} hardware threads{short}

CHECKPOINT
  {saved["bytes"] / 1e9:,.3f} GB, saved in {saved["save_seconds"]:,.1f} s if one host writes it all
  a restart reads it on every host: {saved["restore_seconds"]:,.1f} s, \
{saved["restore_bytes"] / 1e9:,.0f} GB from storage in all

FAILURES
  one in {lost["mean_seconds"] / HOUR:,.1f} hours; until the steps go on \
{lost["restart_seconds"]:,.0f} s
  best saved every {lost["interval_seconds"]:,.0f} s (Young: {lost["young_seconds"]:,.0f} s): \
{every}
  useful are then {lost["useful_share"]:.1%} of the time; {lost["useful_share_saving_hourly"]:.1%} \
with a save an hour
  the {plan["epochs"]:g} epochs take {lost["run_seconds"]:,.0f} s, without a failure in \
{lost["no_failure"]:.1%} of runs

ASSUMED
""" + "\n".join(f"  {name:<16} {value:,g}" for name, value in assumed.items())


def main(arguments: list[str]) -> None:
  parser = make_parser(__doc__)
  parser.add_argument("plan", type=pathlib.Path, help="what train.plan --json wrote")
  for field in dataclasses.fields(Assumptions):
    kind = int if field.name == "slices" else float
    option = f"--{field.name.replace('_', '-')}"
    parser.add_argument(option, type=kind, default=field.default, metavar="N")
  print(_read(parser.parse_args(arguments)))


def _read(options: argparse.Namespace) -> str:
  try:
    plan = json.loads(options.plan.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"{options.plan} cannot be read as a plan ({error})") from None
  if "state_bytes" not in plan or not plan.get("fits"):
    raise UserError(
      f"{options.plan} is no plan of a step that fits: write one with train.plan --json"
    )
  given = Assumptions(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Assumptions)})
  for name, value in vars(given).items():
    if value is not None and value <= 0:
      raise UserError(f"--{name.replace('_', '-')} is {value}, but it must be more than 0")
  return text(plan, given)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
