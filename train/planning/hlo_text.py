"""Reads the text of an optimized HLO module into computations and instructions.

Only what counting needs is read: opcodes, shapes with their layouts, operands, the computations
that are called, other attributes as text, and the compiler's notes in `backend_config`. Formats:
https://openxla.org/xla/shapes and https://openxla.org/xla/tiled_layout.
"""

import dataclasses
import functools
import json
import math
import re

# Memory spaces of a layout. The others hold little: synchronization flags, scalars.
HBM = 0
VMEM = 1

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \([^\n]*\{\n(.*?)^\}(?=$|,)", re.DOTALL | re.M)
# Custom kernels bring attributes with line breaks in them, so a new line alone begins nothing.
_NEXT = re.compile(r"\n(?=\s+(?:ROOT )?%[\w.\-]+ = )")
_INSTRUCTION = re.compile(
  r"\s*(?P<root>ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>.*?) (?P<opcode>[a-z][\w\-]*)"
  r"\((?P<arguments>.*?)\)(?P<rest>(?:, .*)?)\s*",
  re.DOTALL,
)
_ARRAY = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
  """One array and how it lies in memory."""

  dtype: str  # XLA's name, such as bf16
  dims: tuple[int, ...]
  minor_to_major: tuple[int, ...]  # the dimensions, fastest in memory first
  tile: tuple[int, ...]  # the outer tile, for the most minor dimensions
  space: int  # the memory that it is in: HBM, VMEM or another
  bits: int  # of an element in memory; 0 for tokens and the like

  @functools.cached_property
  def bytes(self) -> int:
    """Bytes in memory, with the padding to whole tiles: f32[16]{0:T(128)} takes 512."""
    sizes = [self.dims[i] for i in reversed(self.minor_to_major)]
    sizes = [1] * (len(self.tile) - len(sizes)) + sizes
    for i, tile in enumerate(reversed(self.tile), start=1):
      sizes[-i] = -(-sizes[-i] // tile) * tile
    return math.prod(sizes) * self.bits // 8


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
  """One instruction of a computation."""

  name: str  # without the percent sign
  opcode: str  # such as fusion
  arrays: tuple[Array, ...]  # what it gives; the leaves of a tuple in order
  operands: tuple["Instruction", ...]
  arguments: str  # what stands in the parentheses: operands, a parameter's number, a value
  attributes: str  # the text after the operands, up to the metadata
  source: str  # where in the program it comes from (`op_name`)
  notes: str  # the compiler's `backend_config`
  is_root: bool  # it gives the result of its computation
  module: dict[str, "Computation"] = dataclasses.field(repr=False)  # by name

  @property
  def bytes(self) -> int:
    """Bytes of what it gives, in memory of any kind."""
    return sum(array.bytes for array in self.arrays)

  def attribute(self, name: str) -> str:
    """The value of an attribute, such as "{0,1}" or "b01f_01io->b01f"; "" if there is none."""
    value = r"\{\{.*?\}\}|\{[^}]*\}|\S+?"
    found = re.search(rf", {name}=({value})(?=,|$)", self.attributes)
    return found[1] if found else ""

  def called(self, *attributes: str) -> list["Computation"]:
    """The computations in these attributes."""
    names = [name for each in attributes for name in _NAME.findall(self.attribute(each))]
    return [self.module[name] for name in names]

  def note(self, *path: str):
    """A value of `backend_config`, or None."""
    value = self._notes
    for name in path:
      value = value.get(name) if isinstance(value, dict) else None
    return value

  @functools.cached_property
  def _notes(self):
    try:
      return json.loads(self.notes) if self.notes else {}
    except json.JSONDecodeError:
      return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
  """Instructions, each after its operands; in a scheduled module they run in this order."""

  name: str
  instructions: tuple[Instruction, ...]

  @property
  def root(self) -> Instruction:
    return next(each for each in self.instructions if each.is_root)


def parse(text: str) -> Computation:
  """Reads the text of a module and returns the computation that runs.

  Raises:
    ValueError: the text has no entry computation, or an instruction that cannot be read.
  """
  module, entry = {}, None
  for is_entry, name, body in _COMPUTATION.findall(text):
    instructions = {}
    for line in filter(str.strip, _NEXT.split("\n" + body)):
      instruction = _instruction(line, instructions, module)
      instructions[instruction.name] = instruction
    module[name] = Computation(name, tuple(instructions.values()))
    entry = module[name] if is_entry else entry
  if entry is None:
    raise ValueError("this text is no HLO module: it has no ENTRY computation")
  return entry


def _instruction(text: str, earlier: dict[str, Instruction], module: dict) -> Instruction:
  found = _INSTRUCTION.fullmatch(text)
  if not found:
    raise ValueError(f"this line of HLO cannot be read: {text.strip()[:200]}")
  attributes, _, notes = found["rest"].partition(", backend_config=")
  attributes, _, metadata = attributes.partition(", metadata={")
  source = _SOURCE.search(metadata)
  operands = () if found["opcode"] == "constant" else _NAME.findall(found["arguments"])
  return Instruction(
    name=found["name"],
    opcode=found["opcode"],
    arrays=tuple(_array(*each) for each in _ARRAY.findall(found["shape"])),
    operands=tuple(earlier[name] for name in operands),
    arguments=found["arguments"],
    attributes=attributes,
    source=source[1].replace("\\'", "'") if source else "",
    notes=notes,
    is_root=bool(found["root"]),
    module=module,
  )


def _array(dtype: str, dims: str, layout: str) -> Array:
  dims = tuple(int(each.removeprefix("<=")) for each in dims.split(",") if each)
  order, _, rest = layout.partition(":")
  tile = re.search(r"T\(([\d,]+)\)", rest)
  space = re.search(r"S\((\d+)\)", rest)
  # Written where an element takes less than its type says; else the type is named after it.
  bits = re.search(r"E\((\d+)\)", rest) or re.search(r"(\d+)", dtype)
  return Array(
    dtype=dtype,
    dims=dims,
    minor_to_major=_integers(order) if order else tuple(reversed(range(len(dims)))),
    tile=_integers(tile[1]) if tile else (),
    space=int(space[1]) if space else HBM,
    bits=int(bits[1]) if bits else 8 * (dtype == "pred"),
  )


def _integers(text: str) -> tuple[int, ...]:
  return tuple(map(int, text.split(",")))
