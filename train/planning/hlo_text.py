"""Reads the text of an optimized HLO module into computations and instructions.

Only what counting needs is read: opcodes, shapes with their layouts, operands, the computations
that are called, windows and dimension labels, and the compiler's notes in `backend_config`. The
form of the text is XLA's `HloModule::ToString`; layouts are described at
https://openxla.org/xla/shapes and https://openxla.org/xla/tiled_layout.
"""

import dataclasses
import functools
import json
import math
import re

# Bits of an element. Types that are not listed (token, opaque) take no memory.
_BITS = {
  "pred": 8,
  **{f"{kind}{bits}": bits for kind in "su" for bits in (2, 4, 8, 16, 32, 64)},
  "bf16": 16,
  "f16": 16,
  "f32": 32,
  "f64": 64,
  "c64": 64,
  "c128": 128,
}
HBM, VMEM = (
  0,
  1,
)  # memory spaces of a layout; others are small: synchronization flags, scalars, host

_ARRAY = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
  """One array: `dims` with the first dimension first, as it lies in memory.

  Attributes:
    dtype: XLA's name, such as bf16.
    dims: logical dimensions.
    minor_to_major: the dimensions, fastest in memory first.
    tile: the outer tile, for the most minor dimensions.
    space: the memory that it is in: HBM, VMEM or another.
    bits: of an element in memory.
  """

  dtype: str
  dims: tuple[int, ...]
  minor_to_major: tuple[int, ...]
  tile: tuple[int, ...]
  space: int
  bits: int

  @property
  def elements(self) -> int:
    return math.prod(self.dims)

  @functools.cached_property
  def bytes(self) -> int:
    """Bytes in memory, with the padding to whole tiles: f32[16]{0:T(128)} takes 512."""
    sizes = [self.dims[i] for i in reversed(self.minor_to_major)]
    sizes = [1] * (len(self.tile) - len(sizes)) + sizes
    for i, tile in enumerate(reversed(self.tile), start=1):
      sizes[-i] = -(-sizes[-i] // tile) * tile
    return math.prod(sizes) * self.bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """Attributes:
  name: without the percent sign.
  opcode: such as fusion.
  arrays: what it gives; the leaves of a tuple in order.
  operands: names.
  arguments: the text in the parentheses: the operands, a parameter's number, a constant's value.
  attributes: the text after the operands, up to the metadata.
  source: where in the program it comes from (`op_name`).
  notes: the compiler's `backend_config`, as text.
  is_root: it gives the result of its computation.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  source: str
  notes: str
  is_root: bool

  @property
  def bytes(self) -> int:
    """Bytes of what it gives, in memory of any kind."""
    return sum(array.bytes for array in self.arrays)

  def attribute(self, name: str) -> str:
    """The value of an attribute, such as "{0,1}" or "b01f_01io->b01f"; "" if there is none."""
    found = re.search(
      rf"(?:^|, ){name}=(\{{\{{.*?\}}\}}|\{{[^}}]*\}}|\S+?)(?=,|$)", self.attributes
    )
    return found[1] if found else ""

  def called(self, *attributes: str) -> list[str]:
    """Names of the computations in these attributes."""
    return [name for each in attributes for name in _NAME.findall(self.attribute(each))]

  def note(self, *path: str):
    """A value of `backend_config`, or None."""
    value = self._config
    for name in path:
      value = value.get(name) if isinstance(value, dict) else None
    return value

  @functools.cached_property
  def _config(self):
    try:
      return json.loads(self.notes) if self.notes else {}
    except json.JSONDecodeError:
      return {}


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions in the order of the text; in a scheduled module they run in this order."""

  name: str
  instructions: tuple[Instruction, ...]

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    return {each.name: each for each in self.instructions}

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    users = {each.name: [] for each in self.instructions}
    for instruction in self.instructions:
      for name in dict.fromkeys(instruction.operands):
        users[name].append(instruction)
    return users

  @functools.cached_property
  def parameters(self) -> dict[int, Instruction]:
    found = (each for each in self.instructions if each.opcode == "parameter")
    return {int(each.arguments): each for each in found}

  @property
  def root(self) -> Instruction:
    return next(each for each in self.instructions if each.is_root)


@dataclasses.dataclass(frozen=True)
class Module:
  computations: dict[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """Reads the text of a module.

  Raises:
    ValueError: the text has no entry computation, or an instruction that cannot be read.
  """
  computations, entry, name, instructions = {}, None, None, []
  for line in text.splitlines():
    if name is None:
      if header := _COMPUTATION.match(line):
        name, instructions = header[2], []
        entry = name if header[1] else entry
    elif line.startswith("}"):
      computations[name] = Computation(name, tuple(instructions))
      name = None
    elif line.strip():
      instructions.append(_instruction(line))
  if entry is None:
    raise ValueError("this text is no HLO module: it has no ENTRY computation")
  return Module(computations, computations[entry])


def _instruction(line: str) -> Instruction:
  start = _INSTRUCTION.match(line)
  shape_end = start and _end_of_shape(line, start.end())
  opcode = start and _OPCODE.match(line, shape_end)
  if not opcode:
    raise ValueError(f"this line of HLO cannot be read: {line.strip()[:200]}")
  end = _closing(line, opcode.end() - 1)
  arguments, rest = line[opcode.end() : end], line[end + 1 :]
  attributes, _, notes = rest.partition(", backend_config=")
  attributes, _, metadata = attributes.partition(", metadata={")
  source = _SOURCE.search(metadata)
  return Instruction(
    name=start[2],
    opcode=opcode[1],
    arrays=tuple(_arrays(line[start.end() : shape_end])),
    operands=() if opcode[1] == "constant" else tuple(_NAME.findall(arguments)),
    arguments=arguments,
    attributes=attributes.removeprefix(", "),
    source=source[1].replace("\\'", "'") if source else "",
    notes=notes,
    is_root=bool(start[1]),
  )


def _end_of_shape(line: str, start: int) -> int:
  return _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)


def _closing(line: str, start: int) -> int:
  depth = 0
  for found in re.compile(r"[()]").finditer(line, start):
    depth += 1 if found[0] == "(" else -1
    if not depth:
      return found.start()
  raise ValueError(f"this line of HLO cannot be read: {line.strip()[:200]}")


def _arrays(text: str):
  for dtype, dims, layout in _ARRAY.findall(text):
    dims = tuple(int(each.removeprefix("<=")) for each in dims.split(",") if each)
    order, _, rest = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    size = re.search(r"E\((\d+)\)", rest)
    yield Array(
      dtype=dtype,
      dims=dims,
      minor_to_major=tuple(map(int, order.split(",")))
      if order
      else tuple(reversed(range(len(dims)))),
      tile=tuple(map(int, tile[1].split(","))) if tile else (),
      space=int(space[1]) if space else HBM,
      bits=int(size[1]) if size else _bits(dtype),
    )


def _bits(dtype: str) -> int:
  return 8 if dtype.startswith("f8") else _BITS.get(dtype, 0)
