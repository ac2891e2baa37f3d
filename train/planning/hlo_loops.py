"""How often a loop of an optimized HLO module turns.

A module that is compiled for TPUs no longer says it (`known_trip_count` is gone), so the loop's
counter is run: the scalars that its condition and body compute from constants alone.
"""

import operator

from train.planning.hlo_text import Computation, Instruction, Module

MOST_TURNS = 100_000

_ARITHMETIC = {
  "add": operator.add,
  "subtract": operator.sub,
  "multiply": operator.mul,
  "minimum": min,
  "maximum": max,
  "and": operator.and_,
  "or": operator.or_,
}
_COMPARE = {
  "LT": operator.lt,
  "LE": operator.le,
  "GT": operator.gt,
  "GE": operator.ge,
  "EQ": operator.eq,
  "NE": operator.ne,
}
_SAME = {"copy", "bitcast", "convert", "reshape"}
_LITERALS = {"true": 1, "false": 0}


def trip_count(module: Module, inside: Computation, loop: Instruction) -> int | None:
  """Turns of a `while` instruction in the computation `inside`; None: it cannot be told."""
  if known := loop.note("known_trip_count", "n"):
    return int(known)
  (condition,), (body,) = (
    [module.computations[name] for name in loop.called(each)] for each in ("condition", "body")
  )
  state = _Scalars(module, inside, ()).value(inside.by_name[loop.operands[0]])
  for turn in range(MOST_TURNS):
    goes_on = _Scalars(module, condition, (state,)).value(condition.root)
    if goes_on is None:
      return None
    if not goes_on:
      return turn
    state = _Scalars(module, body, (state,)).value(body.root)
  return None


class _Scalars:
  """Values of integer scalars, and of tuples of them, in one computation; None: not known."""

  def __init__(self, module: Module, inside: Computation, arguments: tuple):
    self._module, self._inside, self._arguments = module, inside, arguments
    self._known = {}

  def value(self, instruction: Instruction):
    if instruction.name not in self._known:
      self._known[instruction.name] = self._compute(instruction)
    return self._known[instruction.name]

  def _compute(self, instruction: Instruction):
    opcode = instruction.opcode
    if opcode == "parameter":
      index = int(instruction.arguments)
      return self._arguments[index] if index < len(self._arguments) else None
    if opcode == "tuple":
      return tuple(map(self._operand, instruction.operands))
    if opcode == "get-tuple-element":
      whole = self._operand(instruction.operands[0])
      return None if whole is None else whole[int(instruction.attribute("index"))]
    if opcode == "copy-start":
      return (self._operand(instruction.operands[0]),)
    if opcode == "copy-done":
      whole = self._operand(instruction.operands[0])
      return None if whole is None else whole[0]
    if not _is_integer(instruction):
      return None
    if opcode == "constant":
      text = instruction.arguments
      return _LITERALS[text] if text in _LITERALS else int(text)
    operands = [self._operand(name) for name in instruction.operands]
    if None in operands:
      return None
    if opcode in _SAME:
      return operands[0]
    if opcode in _ARITHMETIC:
      return _ARITHMETIC[opcode](*operands)
    if opcode == "compare":
      return int(_COMPARE[instruction.attribute("direction")](*operands))
    if opcode in ("fusion", "call"):
      (name,) = instruction.called("calls", "to_apply")
      callee = self._module.computations[name]
      return _Scalars(self._module, callee, tuple(operands)).value(callee.root)
    return None

  def _operand(self, name: str):
    return self.value(self._inside.by_name[name])


def _is_integer(instruction: Instruction) -> bool:
  return all(
    not array.dims and array.dtype[:1] in "sup" and array.bits for array in instruction.arrays
  )
