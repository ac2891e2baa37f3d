"""How often a loop of an optimized HLO module turns.

A module that is compiled for TPUs no longer says it (`known_trip_count` is gone), so the loop's
counter is run: the scalars that its condition and body compute from constants alone.
"""

import functools
import operator

from train.planning.hlo_text import Instruction

MAX_TURNS = 100_000

_SCALAR = {
  "add": operator.add,
  "subtract": operator.sub,
  "multiply": operator.mul,
  "minimum": min,
  "maximum": max,
  "and": operator.and_,
  "or": operator.or_,
  **dict.fromkeys(("copy", "bitcast", "convert", "reshape"), lambda value: value),
}
_TUPLE = {
  "tuple": lambda *values: values,
  "copy-start": lambda value: (value,),
  "copy-done": lambda values: values and values[0],
}
_LITERALS = {"true": 1, "false": 0}


def trip_count(loop: Instruction) -> int | None:
  """Turns of a `while` instruction; None: it cannot be told."""
  if known := loop.note("known_trip_count", "n"):
    return int(known)
  condition, body = loop.called("condition", "body")
  state = _value(loop.operands[0], ())
  for turn in range(MAX_TURNS):
    goes_on = _value(condition.root, (state,))
    if not goes_on:
      return None if goes_on is None else turn
    state = _value(body.root, (state,))
  return None


def _value(wanted: Instruction, arguments: tuple):
  """The integer, or the tuple of them, that a computation has there; None: not known."""

  @functools.cache
  def value(instruction):
    opcode = instruction.opcode
    if opcode == "parameter":
      return dict(enumerate(arguments)).get(int(instruction.arguments))
    if opcode == "get-tuple-element":
      values = value(instruction.operands[0])
      return values and values[int(instruction.attribute("index"))]
    if opcode in _TUPLE:
      return _TUPLE[opcode](*map(value, instruction.operands))
    if not _is_integer(instruction):
      return None
    if opcode == "constant":
      text = instruction.arguments
      return _LITERALS[text] if text in _LITERALS else int(text)
    operands = tuple(map(value, instruction.operands))
    if None in operands:
      return None
    if opcode == "compare":
      return int(getattr(operator, instruction.attribute("direction").lower())(*operands))
    if opcode in ("fusion", "call"):
      (callee,) = instruction.called("calls", "to_apply")
      return _value(callee.root, operands)
    return _SCALAR[opcode](*operands) if opcode in _SCALAR else None

  return value(wanted)


def _is_integer(instruction: Instruction) -> bool:
  return all(
    not array.dims and array.dtype[:1] in "sup" and array.bits for array in instruction.arrays
  )
