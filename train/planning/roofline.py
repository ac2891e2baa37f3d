"""Least time of a training step on a slice, from its work and the peaks of the chip.

A bound, not a forecast: every unit is taken to run at its peak, and compute, memory and
interconnect to overlap fully. https://jax-ml.github.io/scaling-book/roofline
"""

import dataclasses

from train.planning.chips import HOP_LATENCY
from train.planning.hlo_cost import Collective, Program
from train.planning.topologies import Slice

# How often the data cross a device's links, and how often the message crosses the slice.
_PASSES = {"all-reduce": 2}


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step.

  Attributes:
    compute: the matrix FLOPs at the peak of bfloat16.
    memory: the HBM traffic at the peak bandwidth.
    interconnect: the collectives: latency of the hops and the bytes over all links.
    one_by_one: every operation at its own limit, one after the other: nothing overlaps but compute
      and memory within an operation.
  """

  compute: float
  memory: float
  interconnect: float
  one_by_one: float

  @property
  def binding(self) -> str:
    return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))

  @property
  def least(self) -> float:
    return getattr(self, self.binding)


def roofline(program: Program, where: Slice) -> Roofline:
  flops, bandwidth = where.chip.bf16_flops, where.chip.hbm_bandwidth
  flops, bandwidth = flops / where.chip.devices, bandwidth / where.chip.devices
  interconnect = sum(collective_seconds(each, where) * count for each, count in program.collectives)
  each_alone = sum(
    max(each.matrix_flops / flops, each.hbm_bytes / bandwidth) * each.count
    for each in program.operations
  )
  return Roofline(
    compute=program.total("matrix_flops") / flops,
    memory=program.total("hbm_bytes") / bandwidth,
    interconnect=interconnect,
    one_by_one=each_alone + interconnect,
  )


def collective_seconds(collective: Collective, where: Slice) -> float:
  """Least time of one collective on the wires of the slice; 0 within a single device.

  All links of a chip are taken to be used at once. A side of the slice gives a chip two links where
  it closes to a ring; where it does not, the chips at its ends have one, which bounds them all.
  """
  group = collective.group or where.num_devices
  if group == 1 or where.num_chips == 1:
    return 0.0
  links = sum(2 if where.is_ring(side) else 1 for side in where.sides if side > 1)
  bandwidth = where.chip.link_bandwidth / where.chip.devices
  if collective.kind == "collective-permute":
    return HOP_LATENCY + collective.bytes / bandwidth
  hops = sum(side // 2 if where.is_ring(side) else side - 1 for side in where.sides)
  # A device gives its part into an all-gather and receives those of all others.
  given = collective.bytes * (group if collective.kind == "all-gather" else 1)
  passes = _PASSES.get(collective.kind, 1)
  moved = given * (group - 1) / group
  return passes * (hops * HOP_LATENCY + moved / (links * bandwidth))
