"""Least time of a training step on a slice, from its work and the peaks of the chip.

A bound, not a forecast: every unit is taken to run at its peak, and compute, memory and
interconnect to overlap fully. https://jax-ml.github.io/scaling-book/roofline
"""

import dataclasses

from train.planning.chips import HOP_LATENCY
from train.planning.hlo_cost import Collective, Operation, Program
from train.planning.topologies import Slice


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step."""

  compute: float  # the matrix FLOPs at the peak of bfloat16
  memory: float  # the HBM traffic at the peak bandwidth
  interconnect: float  # the collectives: latency of the hops and the bytes over all links
  # Every operation at its own limit, one after the other: nothing overlaps but compute and memory
  # within an operation, and copies that are started early, which count in `memory` alone.
  one_by_one: float
  bounds: tuple[str, ...]  # those that no real step can beat

  @property
  def binding(self) -> str:
    return max(self.bounds, key=lambda name: getattr(self, name))

  @property
  def least(self) -> float:
    return getattr(self, self.binding)


def roofline(program: Program, topology: Slice) -> Roofline:
  interconnect = sum(
    collective_seconds(each, topology) * count for each, count in program.collectives
  )
  each_alone = sum(
    operation_seconds(each, topology) for each in program.operations if not each.overlaps
  )
  return Roofline(
    compute=program.total("matrix_flops") / topology.chip.flops_per_device,
    memory=program.total("hbm_bytes") / topology.chip.bandwidth_per_device,
    interconnect=interconnect,
    one_by_one=each_alone + interconnect,
    bounds=topology.bounds,
  )


def operation_seconds(operation: Operation, topology: Slice) -> float:
  """Least time of all runs of one operation, by compute or by memory; collectives excluded."""
  compute = operation.matrix_flops / topology.chip.flops_per_device
  memory = operation.hbm_bytes / topology.chip.bandwidth_per_device
  return max(compute, memory) * operation.count


def collective_seconds(collective: Collective, topology: Slice) -> float:
  """Least time of one collective on the wires of the slice; 0 within a single device."""
  group = collective.group or topology.num_devices
  if group == 1 or topology.num_chips == 1:
    return 0.0
  wires = topology.wires(group)
  if collective.kind == "collective-permute":
    return HOP_LATENCY + collective.bytes / wires.link
  # A device gives its part into an all-gather and receives those of all others.
  given = collective.bytes * (group if collective.kind == "all-gather" else 1)
  # How often the data cross a device's links, and the message the slice.
  passes = 2 if collective.kind == "all-reduce" else 1
  moved = given * (group - 1) / group
  return passes * (wires.latency + moved / wires.bandwidth)
