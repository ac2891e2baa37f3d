"""FLOPs, HBM traffic and collectives of one run of an optimized HLO module.

XLA's own cost analysis counts the body of a loop once, and buffers in on-chip memory like those in
HBM. So the module is walked here:

- A loop counts as often as it turns (`hlo_loops`); of a conditional's branches the one with the
  most traffic counts; a called computation counts at every call.
- Matrix FLOPs are those of convolutions and dots (`hlo_flops`).
- HBM traffic is what operations read from and write to buffers whose layout names no other memory,
  with the padding of their tiles (`hlo_traffic`).
- Collectives count with the bytes that each device gives into them.
"""

import dataclasses
import functools
import math
import re

from train.planning.hlo_flops import matrix_flops
from train.planning.hlo_loops import trip_count
from train.planning.hlo_text import Computation, Instruction, Module
from train.planning.hlo_traffic import Traffic

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
# They move nothing: names for what is there, or the end of what was counted at its start.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_FREE |= {"add-dependency", "opt-barrier", "partition-id", "replica-id", "async-update"}


@dataclasses.dataclass(frozen=True)
class Collective:
  """Attributes:
  kind: such as all-reduce.
  bytes: that each device gives into it.
  group: devices that take part together; 0: all.
  """

  kind: str
  bytes: int
  group: int


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation that a device runs, or a fusion of many.

  Attributes:
    name: in the module.
    source: where in the program it comes from, as JAX names it.
    matrix_flops: of convolutions and dots.
    hbm_read: bytes.
    hbm_written: bytes.
    cycles: the compiler's estimate; 0: it gives none, as for copies and collectives.
    collectives: that it does; fusions may hold some.
    count: times that it runs in one run of the module.
  """

  name: str
  source: str
  matrix_flops: int
  hbm_read: int
  hbm_written: int
  cycles: int
  collectives: tuple[Collective, ...]
  count: int = 1

  @property
  def hbm_bytes(self) -> int:
    return self.hbm_read + self.hbm_written


@dataclasses.dataclass(frozen=True)
class Program:
  """What one device does in one run of a module.

  Attributes:
    operations: in the order of the program.
    unknown_loops: names of loops whose number of turns cannot be told; they count once.
  """

  operations: tuple[Operation, ...]
  unknown_loops: tuple[str, ...]

  def total(self, figure: str) -> int:
    """The sum over all operations of one of their figures, such as "hbm_bytes"."""
    return sum(getattr(each, figure) * each.count for each in self.operations)

  @property
  def collectives(self) -> list[tuple[Collective, int]]:
    """Each with the times that it runs."""
    return [(each, one.count) for one in self.operations for each in one.collectives]


def read_program(module: Module) -> Program:
  reader = _Reader(module)
  operations = reader.computation(module.entry.name)
  return Program(operations, tuple(dict.fromkeys(reader.unknown_loops)))


class _Reader:
  def __init__(self, module: Module):
    self._module, self._traffic = module, Traffic(module)
    self._known = {}
    self.unknown_loops = []

  def computation(self, name: str) -> tuple[Operation, ...]:
    if name not in self._known:
      inside = self._module.computations[name]
      self._known[name] = tuple(
        operation for one in inside.instructions for operation in self._operations(inside, one)
      )
    return self._known[name]

  def _operations(self, inside: Computation, instruction: Instruction):
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
      return ()
    if opcode == "while":
      turns = trip_count(self._module, inside, instruction)
      if turns is None:
        self.unknown_loops.append(instruction.name)
        turns = 1
      operations = self._called(instruction.called("condition", "body"))
      return [dataclasses.replace(each, count=each.count * turns) for each in operations]
    if opcode == "conditional":
      branches = instruction.called("branch_computations", "true_computation", "false_computation")
      return max(map(self.computation, branches), key=_bytes_of)
    if opcode in ("call", "async-start"):
      return self._called(instruction.called("to_apply", "calls"))
    read, written = self._traffic.of(inside, instruction)
    operation = Operation(
      instruction.name,
      instruction.source,
      self._flops(inside, instruction),
      read,
      written,
      int(instruction.note("window_config", "estimated_cycles") or 0),
      self._collectives(inside, instruction),
    )
    return (operation,)

  def _called(self, names: list[str]) -> list[Operation]:
    return [each for name in names for each in self.computation(name)]

  def _flops(self, inside: Computation, instruction: Instruction) -> int:
    if instruction.opcode == "fusion":
      return sum(map(self._fused_flops, instruction.called("calls")))
    return matrix_flops(instruction, inside)

  @functools.cache  # noqa: B019 - a reader lives as long as one module is read
  def _fused_flops(self, name: str) -> int:
    fused = self._module.computations[name]
    return sum(self._flops(fused, each) for each in fused.instructions)

  def _collectives(self, inside: Computation, instruction: Instruction) -> tuple[Collective, ...]:
    kind = instruction.opcode.removesuffix("-start")
    if kind == "fusion":
      fused = self._module.computations[instruction.called("calls")[0]]
      found = [each for one in fused.instructions for each in self._collectives(fused, one)]
      if fused.name.startswith("all-reduce-scatter"):
        found = [dataclasses.replace(each, kind="reduce-scatter") for each in found]
      return tuple(found)
    if kind not in COLLECTIVES:
      return ()
    given = sum(inside.by_name[name].bytes for name in instruction.operands)
    return (Collective(kind, given, _group(instruction)),)


def _bytes_of(operations) -> int:
  return Program(tuple(operations), ()).total("hbm_bytes")


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
