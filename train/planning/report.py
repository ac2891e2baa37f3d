"""The plan as values for JSON, and as text for people."""

import dataclasses
import importlib.metadata
import math

import jax

from train.planning.compiling import CompiledStep
from train.planning.kinds import kinds
from train.planning.roofline import Roofline, collective_seconds, operation_seconds, roofline
from train.planning.topologies import Machines, Slice

_UNITS = (("days", 1), ("hours", 24), ("minutes", 24 * 60), ("seconds", 24 * 60 * 60))
_DAY = 24 * 60 * 60
_COLUMNS = "       ms       GB   GFLOP  times"


def as_dict(step: CompiledStep, topology: Slice | Machines) -> dict:
  """All values of a plan, in bytes, seconds and counts."""
  setup, chip = step.setup, topology.chip
  config = setup.config
  plan = {
    "model": config.model.name,
    "dtype": config.model.dtype,
    "batch_norm_group_size": config.model.batch_norm_group_size,
    "dataset": config.data.dataset,
    "image_size": config.data.image_size,
    "topology": topology.name,
    "chips": topology.num_chips,
    "devices": topology.num_devices,
    "batch_size": config.batch_size,
    "batch_per_chip": config.batch_size / topology.num_chips,
    topology.compiler: importlib.metadata.version(topology.compiler),
    "weaker": list(topology.weaker),
    "compile_seconds": round(step.seconds, 1),
    "fits": step.fits,
    "hbm_usable_bytes_per_device": round(chip.usable_bytes / chip.devices),
    "state_bytes": _bytes(setup.abstract_state),
    "batch_bytes": _bytes(setup.abstract_batch),
  }
  if not step.fits:
    return plan | {"hbm_needed_bytes_per_device": step.needed}
  program, times = step.program, roofline(step.program, topology)
  rate = config.batch_size / times.least
  return plan | {
    "memory_per_device": dataclasses.asdict(step.memory) | {"total": step.memory.total},
    "matrix_flops_per_device": program.total("matrix_flops"),
    "hbm_bytes_read_per_device": program.total("hbm_read"),
    "hbm_bytes_written_per_device": program.total("hbm_written"),
    "compiler_cycles": program.total("cycles"),
    "kernels": sum(each.count for each in program.kernels),
    "kernel_flops_per_device": sum(each.matrix_flops * each.count for each in program.kernels),
    "operations_by_kind": [dataclasses.asdict(each) for each in kinds(program, topology)],
    "unknown_loops": list(program.unknown_loops),
    "collectives": _collectives(step, topology),
    "roofline_seconds": _seconds(times),
    "binding": times.binding,
    "most_images_per_second": rate,
    "most_images_per_second_per_chip": rate / topology.num_chips,
    "steps_per_epoch": setup.steps_per_epoch,
    "epochs": config.epochs,
    "steps": setup.total_steps,
    "least_days": setup.total_steps * times.least / _DAY,
  }


def _seconds(times: Roofline) -> dict[str, float]:
  names = ("compute", "memory", "interconnect", "one_by_one", "least")
  return {name: getattr(times, name) for name in names}


def _bytes(tree) -> int:
  """Of all arrays once, however many devices hold them: what a checkpoint has to save."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _collectives(step: CompiledStep, topology) -> list[dict]:
  """By kind and size of the group: how many a step, their bytes and their least time."""
  rows = {}
  for each, count in step.program.collectives:
    group = each.group or topology.num_devices
    row = rows.setdefault(
      (each.kind, group),
      {"kind": each.kind, "group": group, "count": 0, "bytes": 0, "least_seconds": 0.0},
    )
    row["count"] += count
    row["bytes"] += each.bytes * count
    row["least_seconds"] += collective_seconds(each, topology) * count
  return sorted(rows.values(), key=lambda row: -row["bytes"])


def text(step: CompiledStep, topology: Slice | Machines) -> str:
  plan, unit = as_dict(step, topology), topology.unit
  parts = [_title(plan, topology), _memory(plan, topology)]
  if step.fits:
    parts += [_work(plan, unit), _times(plan, topology, unit)]
  if topology.weaker:
    parts.append("\n  ".join(["WEAKER than what the compiler says of TPUs:", *topology.weaker]))
  return "\n\n".join(parts) + "\n" * step.fits


def _title(plan, topology) -> str:
  return (
    f"{plan['model']}, {plan['dtype']}, {plan['image_size']}x{plan['image_size']} images of "
    f"{plan['dataset']}, on {plan['topology']}: {plan['chips']} "
    f"{topology.chip_name}s\n"
    f"batch of {plan['batch_size']:,} images: {plan['batch_per_chip']:,g} a {topology.chip_name}; "
    f"compiled in {plan['compile_seconds']:.0f} s by {topology.compiler_title} "
    f"{plan[topology.compiler]}; nothing ran on a {topology.kind}"
  )


def _memory(plan, topology) -> str:
  usable = plan["hbm_usable_bytes_per_device"]
  title = f"MEMORY of a {topology.unit}, by the compiler\n"
  if not plan["fits"]:
    needed = plan["hbm_needed_bytes_per_device"]
    return (
      f"{title}  does not fit: it needs {_gb(needed)}, and {_gb(usable)} are usable; give fewer\n"
      "  images a chip (--batch-per-chip)"
    )
  memory = plan["memory_per_device"]
  peak = f"\n  peak         {_gb(memory['peak']):>10}  most in use at once, without the program"
  return f"""{title}\
  fits: {_gb(memory["total"])} of {_gb(usable)} ({memory["total"] / usable:.0%})
  arguments    {_gb(memory["arguments"]):>10}  parameters, optimizer, statistics, the batch
  temporaries  {_gb(memory["temporaries"]):>10}  mostly activations kept for the backward pass
  program      {_gb(memory["code"]):>10}{peak if topology.knows_memory else ""}"""


def _work(plan, unit) -> str:
  read, written = plan["hbm_bytes_read_per_device"], plan["hbm_bytes_written_per_device"]
  collectives = [
    f"  {row['kind']:<24}  {row['count']:,} a step over {row['group']} devices, "
    f"{_gb(row['bytes'])} given in by each"
    for row in plan["collectives"]
  ]
  warnings = [
    f"  warning: how often the loop {name} turns is unknown; it is counted once"
    for name in plan["unknown_loops"]
  ]
  kernels = [
    f"  custom kernels            {plan['kernels']:,} a step, "
    f"{_tera(plan['kernel_flops_per_device'])}FLOP of these by their own estimates"
  ]
  lines = [
    f"WORK of a {unit} in one step, counted in the compiler's program",
    f"  convolutions and matmuls  {_tera(plan['matrix_flops_per_device'])}FLOP",
    *(kernels if plan["kernels"] else ()),
    f"  HBM traffic               {_gb(read + written)} ({_gb(read)} read, {_gb(written)} written)",
    *(collectives or ["  collectives               none"]),
    *warnings,
  ]
  return "\n".join(lines)


def _times(plan, topology, unit) -> str:
  chip, times, cycles = topology.chip, plan["roofline_seconds"], plan["compiler_cycles"]
  rates = {
    "compute": f"{chip.flops_per_device / 1e12:,.0f} TFLOP/s (bfloat16)",
    "memory": f"{chip.bandwidth_per_device / 1e9:,.0f} GB/s of HBM"
    + ("" if "memory" in topology.bounds else ", no bound"),
    "interconnect": topology.links,
  }
  limits = [
    f"  {name:<12}  {_ms(times[name]):>9}  at {rate}"
    + ("  <- the limit" if name == plan["binding"] else "")
    for name, rate in rates.items()
  ]
  guess = f"{cycles / 1e6:,.1f} M cycles"
  if chip.clock:
    guess = f"{_ms(cycles / chip.clock)} ({guess} at {chip.clock / 1e9:g} GHz)"
  if plan["kernels"]:
    guess += ", without the kernels"
  lines = [
    f"TIME of one step: estimates, the work at the peaks of the {unit} ({chip.source})",
    *limits,
    f"  one by one    {_ms(times['one_by_one']):>9}  if none but early copies overlap",
    f"  at most {plan['most_images_per_second_per_chip']:,.0f} images/s a {topology.chip_name}, "
    f"{plan['most_images_per_second']:,.0f} on all",
    f"  {plan['epochs']:g} epochs = {plan['steps']:,} steps: at least "
    f"{_duration(plan['least_days'])}, without evaluation, checkpoints and waiting for data",
  ]
  if cycles:
    lines.append(f"  the compiler's own guesses for its operations add up to {guess}")
  return "\n".join(lines)


def by_kind(step: CompiledStep, topology: Slice) -> str:
  """What a step is made of, as a table."""
  rows = [
    _row(each.seconds, each.hbm_bytes, each.matrix_flops, each.operations)
    + f"{each.kind}{each.direction and ', ' + each.direction}"
    for each in kinds(step.program, topology)
  ]
  return "\n".join(["OPERATIONS by kind, each at the peaks", _COLUMNS, *rows])


def heaviest(step: CompiledStep, topology: Slice, count: int) -> str:
  """The operations that take longest by the roofline, as a table."""

  def seconds(each):
    return operation_seconds(each, topology)

  operations = sorted(step.program.operations, key=seconds, reverse=True)[:count]
  rows = [
    _row(seconds(each), each.hbm_bytes * each.count, each.matrix_flops * each.count, each.count)
    + f"{each.name}  {each.source}"
    for each in operations
  ]
  return "\n".join(["OPERATIONS that take longest at the peaks", _COLUMNS, *rows])


def _row(seconds: float, hbm_bytes: int, matrix_flops: int, times: int) -> str:
  """The numbers under `_COLUMNS`."""
  return f"  {seconds * 1e3:7.2f}  {hbm_bytes / 1e9:7.2f} {matrix_flops / 1e9:7.0f}  {times:5d}  "


def _gb(count: float) -> str:
  return f"{count / 1e9:,.2f} GB" if count >= 1e7 else f"{count / 1e6:,.2f} MB"


def _tera(count: float) -> str:
  return f"{count / 1e12:,.2f} T" if count >= 1e10 else f"{count / 1e9:,.2f} G"


def _ms(seconds: float) -> str:
  return f"{seconds * 1e3:,.2f} ms"


def _duration(days: float) -> str:
  unit, count = next((each for each in _UNITS if days * each[1] >= 1), _UNITS[-1])
  return f"{days * count:,.1f} {unit}"
