"""The plan as figures, and as text for people."""

import dataclasses
import importlib.metadata

from train.planning.compiling import CompiledStep
from train.planning.roofline import Roofline, collective_seconds, roofline
from train.planning.topologies import Slice

_DAY = 24 * 60 * 60


def figures(step: CompiledStep, where: Slice) -> dict:
  """All figures of a plan, in bytes, seconds and counts, for JSON."""
  setup, chip = step.setup, where.chip
  config = setup.config
  result = {
    "model": config.model.name,
    "dtype": config.model.dtype,
    "batch_norm_group_size": config.model.batch_norm_group_size,
    "dataset": config.data.dataset,
    "image_size": config.data.image_size,
    "topology": where.name,
    "chips": where.num_chips,
    "devices": where.num_devices,
    "batch_size": config.batch_size,
    "batch_per_chip": config.batch_size / where.num_chips,
    "libtpu": importlib.metadata.version("libtpu"),
    "compile_seconds": round(step.seconds, 1),
    "fits": step.fits,
    "hbm_usable_bytes_per_device": round(chip.usable_bytes / chip.devices),
  }
  if not step.fits:
    return result | {"hbm_needed_bytes_per_device": step.needed}
  program, times = step.program, roofline(step.program, where)
  rate = config.batch_size / times.least
  return result | {
    "memory_per_device": dataclasses.asdict(step.memory) | {"total": step.memory.total},
    "matrix_flops_per_device": program.total("matrix_flops"),
    "hbm_bytes_read_per_device": program.total("hbm_read"),
    "hbm_bytes_written_per_device": program.total("hbm_written"),
    "compiler_cycles": program.total("cycles"),
    "unknown_loops": list(program.unknown_loops),
    "collectives": _collectives(step, where),
    "roofline_seconds": dataclasses.asdict(times) | {"least": times.least},
    "binding": times.binding,
    "most_images_per_second": rate,
    "most_images_per_second_per_chip": rate / where.num_chips,
    "steps_per_epoch": setup.steps_per_epoch,
    "epochs": config.epochs,
    "steps": setup.total_steps,
    "least_days": setup.total_steps * times.least / _DAY,
  }


def _collectives(step: CompiledStep, where: Slice) -> list[dict]:
  """By kind and size of the group: how many a step, their bytes and their least time."""
  rows = {}
  for each, count in step.program.collectives:
    group = each.group or where.num_devices
    row = rows.setdefault(
      (each.kind, group),
      {"kind": each.kind, "group": group, "count": 0, "bytes": 0, "least_seconds": 0.0},
    )
    row["count"] += count
    row["bytes"] += each.bytes * count
    row["least_seconds"] += collective_seconds(each, where) * count
  return sorted(rows.values(), key=lambda row: -row["bytes"])


def text(step: CompiledStep, where: Slice) -> str:
  plan, chip = figures(step, where), where.chip
  unit = "chip" if chip.devices == 1 else f"device ({chip.devices} are one chip)"
  lines = [
    f"{plan['model']}, {plan['dtype']}, {plan['image_size']}x{plan['image_size']} images of "
    f"{plan['dataset']}, on {where.name}: {plan['chips']} chips",
    f"batch of {plan['batch_size']:,} images: {plan['batch_per_chip']:,g} a chip; compiled in "
    f"{plan['compile_seconds']:.0f} s by libtpu {plan['libtpu']}; nothing ran on a TPU",
    "",
    *_memory(step, where, unit),
  ]
  if not step.fits:
    return "\n".join(lines)
  times = roofline(step.program, where)
  return "\n".join([*lines, "", *_work(plan, unit), "", *_times(plan, times, where, unit), ""])


def _memory(step, where, unit):
  usable = where.chip.usable_bytes / where.chip.devices
  if not step.fits:
    return [
      f"MEMORY of a {unit}, by the compiler",
      f"  does not fit: it needs {_gb(step.needed)}, and {_gb(usable)} are usable; give fewer",
      "  images a chip (--batch-per-chip)",
    ]
  memory = step.memory
  return [
    f"MEMORY of a {unit}, by the compiler",
    f"  fits: {_gb(memory.total)} of {_gb(usable)} ({memory.total / usable:.0%})",
    f"  arguments    {_gb(memory.arguments):>10}  parameters, optimizer, statistics, the batch",
    f"  temporaries  {_gb(memory.temporaries):>10}  mostly activations kept for the backward pass",
    f"  program      {_gb(memory.code):>10}",
    f"  peak         {_gb(memory.peak):>10}  most in use at once, without the program",
  ]


def _work(plan, unit):
  read, written = plan["hbm_bytes_read_per_device"], plan["hbm_bytes_written_per_device"]
  lines = [
    f"WORK of a {unit} in one step, counted in the compiler's program",
    f"  convolutions and matmuls  {_tera(plan['matrix_flops_per_device'])}FLOP",
    f"  HBM traffic               {_gb(read + written)} ({_gb(read)} read, {_gb(written)} written)",
  ]
  for row in plan["collectives"]:
    lines.append(
      f"  {row['kind']:<24}  {row['count']:,} a step over {row['group']} devices, "
      f"{_gb(row['bytes'])} given in by each"
    )
  if not plan["collectives"]:
    lines.append("  collectives               none")
  for name in plan["unknown_loops"]:
    lines.append(f"  warning: how often the loop {name} turns is unknown; it is counted once")
  return lines


def _times(plan, times: Roofline, where: Slice, unit):
  chip = where.chip
  rates = {
    "compute": f"{chip.bf16_flops / chip.devices / 1e12:,.0f} TFLOP/s (bfloat16)",
    "memory": f"{chip.hbm_bandwidth / chip.devices / 1e9:,.0f} GB/s of HBM",
    "interconnect": "all links of a chip, 1 us a hop",
  }
  lines = [f"TIME of one step: estimates, the work at the peaks of the {unit} ({chip.source})"]
  for name, rate in rates.items():
    mark = "  <- the limit" if name == times.binding else ""
    lines.append(f"  {name:<12}  {_ms(getattr(times, name)):>9}  at {rate}{mark}")
  lines += [
    f"  one by one    {_ms(times.one_by_one):>9}  if no operation overlaps with another",
    f"  at most {plan['most_images_per_second_per_chip']:,.0f} images/s a chip, "
    f"{plan['most_images_per_second']:,.0f} on the slice",
    f"  {plan['epochs']:g} epochs = {plan['steps']:,} steps: at least "
    f"{_duration(plan['least_days'])}, without evaluation, checkpoints and waiting for data",
  ]
  cycles = plan["compiler_cycles"]
  if chip.clock:
    lines.append(
      f"  the compiler's own guesses for its operations add up to {_ms(cycles / chip.clock)} "
      f"({cycles / 1e6:,.1f} M cycles at {chip.clock / 1e9:g} GHz)"
    )
  else:
    lines.append(
      f"  the compiler's own guesses for its operations add up to {cycles / 1e6:,.1f} M cycles"
    )
  return lines


def heaviest(step: CompiledStep, where: Slice, count: int) -> str:
  """The operations that take longest by the roofline, as a table."""
  flops = where.chip.bf16_flops / where.chip.devices
  bandwidth = where.chip.hbm_bandwidth / where.chip.devices

  def seconds(each):
    return max(each.matrix_flops / flops, each.hbm_bytes / bandwidth) * each.count

  operations = sorted(step.program.operations, key=seconds, reverse=True)[:count]
  lines = ["OPERATIONS that take longest at the peaks", "       ms       GB   GFLOP  times"]
  for each in operations:
    lines.append(
      f"  {seconds(each) * 1e3:7.2f}  {each.hbm_bytes * each.count / 1e9:7.2f} "
      f"{each.matrix_flops * each.count / 1e9:7.0f}  {each.count:5d}  {each.name}  {each.source}"
    )
  return "\n".join(lines)


def _gb(count: float) -> str:
  return f"{count / 1e9:,.2f} GB" if count >= 1e7 else f"{count / 1e6:,.2f} MB"


def _tera(count: float) -> str:
  return f"{count / 1e12:,.2f} T" if count >= 1e10 else f"{count / 1e9:,.2f} G"


def _ms(seconds: float) -> str:
  return f"{seconds * 1e3:,.2f} ms"


def _duration(days: float) -> str:
  if days >= 1:
    return f"{days:,.1f} days"
  for unit, count in (("hours", 24), ("minutes", 24 * 60)):
    if days * count >= 1:
      return f"{days * count:,.1f} {unit}"
  return f"{days * _DAY:,.1f} seconds"
