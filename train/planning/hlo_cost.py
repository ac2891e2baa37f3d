"""FLOPs, HBM traffic and collectives of one run of an optimized HLO module.

XLA's own cost analysis counts the body of a loop once, and buffers in on-chip memory like those in
HBM. So the module is walked here:

- A loop counts as often as it turns (`hlo_loops`); of a conditional's branches the one with the
  most traffic counts; a called computation counts at every call.
- Matrix FLOPs are those of convolutions and dots, and what custom kernels say.
- HBM traffic is counted with the padding of tiles; see `hlo_traffic`.
- Collectives count with the bytes that each device gives into them.
"""

import dataclasses
import itertools
import math
import re

import numpy as np

from train.planning.hlo_loops import trip_count
from train.planning.hlo_text import Computation, Instruction
from train.planning.hlo_traffic import traffic

COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"}
COLLECTIVES |= {"collective-permute", "collective-broadcast"}
# They move nothing: names for what is there, or the end of what was counted at its start.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_FREE |= {"add-dependency", "opt-barrier", "partition-id", "replica-id", "async-update"}


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices."""

  kind: str  # such as all-reduce
  bytes: int  # that each device gives into it
  group: int  # devices that take part together; 0: all


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation that a device runs, or a fusion of many."""

  name: str
  source: str  # where in the program it comes from, as JAX names it
  matrix_flops: int  # of convolutions, dots and kernels
  hbm_read: int  # bytes
  hbm_written: int  # bytes
  cycles: int  # the compiler's estimate; 0: it gives none, as for copies and collectives
  collectives: tuple[Collective, ...]  # fusions may hold some
  count: int = 1  # times that it runs in one run of the module
  # A copy between HBM and the chip that is started early, so that others run beside it.
  overlaps: bool = False
  is_kernel: bool = False  # custom, such as one of Pallas: FLOPs are what it says of itself
  window: str = ""  # kernel of its largest convolution, such as 3x3; empty: it has none

  @property
  def hbm_bytes(self) -> int:
    return self.hbm_read + self.hbm_written


@dataclasses.dataclass(frozen=True)
class Program:
  """What one device does in one run of a module."""

  operations: tuple[Operation, ...]  # in the order of the program
  unknown_loops: tuple[str, ...]  # whose number of turns cannot be told; they count once

  def total(self, field: str) -> int:
    """The sum over all operations of one of their numbers, such as "hbm_bytes"."""
    return sum(getattr(each, field) * each.count for each in self.operations)

  @property
  def kernels(self) -> list[Operation]:
    return [each for each in self.operations if each.is_kernel]

  @property
  def collectives(self) -> list[tuple[Collective, int]]:
    """Each with the times that it runs."""
    return [(each, one.count) for one in self.operations for each in one.collectives]


def read_program(entry: Computation) -> Program:
  """What a run of a module does; its entry is what `hlo_text.parse` returns."""
  unknown_loops = []
  operations = _operations_of(entry, unknown_loops)
  return Program(tuple(operations), tuple(dict.fromkeys(unknown_loops)))


def _operations_of(computation: Computation, unknown_loops: list[str]) -> list[Operation]:
  found = [_operations(each, unknown_loops) for each in computation.instructions]
  return list(itertools.chain(*found))


def _operations(instruction: Instruction, unknown_loops: list[str]) -> list[Operation]:
  def called(*attributes):
    return [_operations_of(each, unknown_loops) for each in instruction.called(*attributes)]

  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith("-done"):
    return []
  if opcode == "while":
    turns = trip_count(instruction)
    if turns is None:
      unknown_loops.append(instruction.name)
      turns = 1
    turn = itertools.chain(*called("condition", "body"))
    return [dataclasses.replace(each, count=each.count * turns) for each in turn]
  if opcode == "conditional":
    branches = called("branch_computations", "true_computation", "false_computation")
    return max(branches, key=lambda each: Program(tuple(each), ()).total("hbm_bytes"))
  if opcode in ("call", "async-start"):
    inner = itertools.chain(*called("to_apply", "calls"))
    starts = opcode == "async-start"
    return [dataclasses.replace(each, overlaps=each.overlaps or starts) for each in inner]
  read, written = traffic(instruction)
  operation = Operation(
    name=instruction.name,
    source=instruction.source,
    matrix_flops=_flops(instruction),
    hbm_read=read,
    hbm_written=written,
    cycles=int(instruction.note("window_config", "estimated_cycles") or 0),
    collectives=tuple(_collectives(instruction)),
    overlaps=opcode.endswith("-start") and opcode.removesuffix("-start") not in COLLECTIVES,
    is_kernel=bool(instruction.note("custom_call_config", "cost_estimate")),
    window=_window(instruction),
  )
  return [operation]


def _flops(instruction: Instruction) -> int:
  """Of a convolution or dot, alone or in a fusion, or as a custom kernel says; else 0.

  As XLA counts them: a multiply-add is 2, and positions of a convolution's window that lie in the
  padding, or between dilated elements, do no work and are left out.
  https://openxla.org/xla/operation_semantics#convwithgeneralpadding_convolution
  """
  if instruction.opcode == "fusion":
    return sum(_flops(each) for fused in instruction.called("calls") for each in fused.instructions)
  count = {"convolution": _convolution, "dot": _dot}.get(instruction.opcode)
  if count:
    arrays = [each.arrays[0] for each in (*instruction.operands[:2], instruction)]
    return 2 * count(instruction, *(each.dims for each in arrays))
  return int(instruction.note("custom_call_config", "cost_estimate", "flops") or 0)


def _window(instruction: Instruction) -> str:
  """The kernel of the convolution with most work, alone or in a fusion."""
  inside = instruction.called("calls") if instruction.opcode == "fusion" else ()
  found = [instruction, *(each for fused in inside for each in fused.instructions)]
  convolutions = [each for each in found if each.opcode == "convolution"]
  if not convolutions:
    return ""
  largest = max(convolutions, key=_flops)
  arrays = [each.arrays[0].dims for each in (*largest.operands[:2], largest)]
  inputs, kernel, outputs = _labelled(largest, arrays)
  # The gradient of a kernel is a convolution whose result is the kernel.
  return "x".join(
    str(min(inputs[axis], kernel[axis], outputs[axis])) for axis in map(str, range(len(inputs) - 2))
  )


def _labelled(convolution: Instruction, dims) -> list[dict[str, int]]:
  """Sizes by the names of the axes, of its input, kernel and output."""
  labels = re.split("_|->", convolution.attribute("dim_labels"))
  return [dict(zip(*each, strict=True)) for each in zip(labels, dims, strict=True)]


def _collectives(instruction: Instruction) -> list[Collective]:
  kind = instruction.opcode.removesuffix("-start")
  if kind == "fusion":
    (fused,) = instruction.called("calls")
    found = [each for one in fused.instructions for each in _collectives(one)]
    if fused.name.startswith("all-reduce-scatter"):
      found = [dataclasses.replace(each, kind="reduce-scatter") for each in found]
    return found
  if kind not in COLLECTIVES:
    return []
  given = sum(each.bytes for each in instruction.operands)
  return [Collective(kind, given, _group(instruction))]


def _group(instruction: Instruction) -> int:
  """Devices in a group; 0: all of them, or none given."""
  text = instruction.attributes
  if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
    return len(found[1].split(","))
  if found := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
    return int(found[1])
  if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", found[2]))
  return 0


def _dot(instruction: Instruction, left, right, out) -> int:
  del right
  contracted = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))
  return math.prod(out) * math.prod(left[int(i)] for i in contracted)


def _convolution(instruction: Instruction, *dims) -> int:
  inputs, kernel, outputs = _labelled(instruction, dims)
  groups, batch_groups = (
    int(instruction.attribute(name) or 1) for name in ("feature_group_count", "batch_group_count")
  )
  # {"size": ["3", "3"], "pad": ["1_1", "1_1"]} from "{size=3x3 pad=1_1x1_1}"
  text = instruction.attribute("window")
  window = {name: value.split("x") for name, value in re.findall(r"(\w+)=([\d_x\-]+)", text)}
  multiply_adds = (inputs["f"] // groups) * outputs["f"] * (inputs["b"] // batch_groups)
  for axis in range(len(inputs) - 2):
    sizes = (each[str(axis)] for each in (inputs, kernel, outputs))
    multiply_adds *= _valid_positions(
      *sizes, **{name: values[axis] for name, values in window.items()}
    )
  return multiply_adds


def _valid_positions(
  inputs: int, kernel: int, outputs: int, stride=1, pad="0", lhs_dilate=1, rhs_dilate=1, **_
) -> int:
  """Pairs (kernel position, output position) of one axis that meet an element of the input."""
  base, low = int(lhs_dilate), int(pad.split("_")[0])
  at = np.arange(outputs)[:, None] * int(stride) + np.arange(kernel) * int(rhs_dilate) - low
  return int(np.sum((at >= 0) & (at <= (inputs - 1) * base) & (at % base == 0)))
