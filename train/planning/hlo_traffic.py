"""Bytes that the operations of an HLO module move from and to HBM.

What counts is every operand that an operation or fusion reads from HBM, once, and every result that
it writes there; copies and prefetches between HBM and on-chip memory on the side that is in HBM.
Buffers whose layout names another memory space (VMEM, flags, scalars) do not count, nor does what
happens inside a fusion. Of an operand that is only sliced or gathered from, the part that is read
counts, and of a result that is updated in place, the part that is written.

It is a lower bound: a convolution whose operands do not fit on the chip may read them again.
"""

import dataclasses

from train.planning.hlo_text import HBM, VMEM, Computation, Instruction

# Their results are names for memory that is there already.
_FREE_TARGETS = {'"AllocateBuffer"', '"ConcatBitcast"'}
_SLICES = {"slice", "dynamic-slice", "gather", "dynamic-update-slice", "scatter"}
_TRANSPARENT = {"bitcast", "reshape", "get-tuple-element", "tuple"}
_NOT_ELEMENTWISE = _SLICES | {"convolution", "dot", "reduce", "reduce-window", "sort", "fusion"}
_NOT_ELEMENTWISE |= {"custom-call", "select-and-scatter", "reverse", "transpose", "concatenate"}
_NOT_ELEMENTWISE |= {"pad"}


def traffic(instruction: Instruction) -> tuple[int, int]:
  """(bytes read from HBM, bytes written to it) by one instruction."""
  instruction = _plain(instruction)
  if instruction.attribute("custom_call_target") in _FREE_TARGETS:
    return 0, 0
  if instruction.opcode == "fusion":
    return _of_fusion(instruction)
  read = sum(
    round(_hbm(each.arrays) * _fraction_read(instruction, i))
    for i, each in enumerate(instruction.operands)
  )
  written = _hbm(instruction.arrays)
  update = _update(instruction)
  return read, written if update is None else min(written, update.bytes)


def _of_fusion(instruction: Instruction) -> tuple[int, int]:
  (fused,) = instruction.called("calls")
  uses = _uses(fused)
  read = sum(
    round(_hbm(operand.arrays) * (1 if uses[i][1] else min(uses[i][0], 1)))
    for i, operand in enumerate(instruction.operands)
  )
  results = fused.root.operands if fused.root.opcode == "tuple" else [fused.root]
  if len(results) != len(instruction.arrays):
    return read, _hbm(instruction.arrays)
  return read, sum(
    min(array.bytes, _written(result))
    for array, result in zip(instruction.arrays, results, strict=True)
    if array.space == HBM
  )


def _uses(fused: Computation) -> dict[int, tuple[float, bool]]:
  """Of each parameter: the fraction that its users read; whether all of it is the result."""
  fractions, results = dict.fromkeys(fused.instructions, 0.0), {fused.root}
  for user in reversed(fused.instructions):
    inner = _uses(*user.called("calls")) if user.opcode == "fusion" else None
    for i, operand in enumerate(user.operands):
      goes_on = user.opcode in _TRANSPARENT or _is_elementwise(user, operand)
      if inner:
        part, goes_on = inner[i]
        fractions[operand] += part
      elif not goes_on:
        fractions[operand] += _fraction_read(user, i)
      if goes_on:
        fractions[operand] += fractions[user]
        results |= {operand} if user in results else set()
  parameters = [each for each in fused.instructions if each.opcode == "parameter"]
  return {int(each.arguments): (fractions[each], each in results) for each in parameters}


def _written(result: Instruction) -> int:
  if result.opcode == "bitcast":
    return _written(result.operands[0])
  if result.opcode == "fusion" and len(result.arrays) == 1:
    (inner,) = result.called("calls")
    return _written(inner.root)
  return (_update(result) or result).bytes


def _plain(instruction: Instruction) -> Instruction:
  """An asynchronous start, which gives more than its result, as the plain operation."""
  opcode = instruction.opcode.removesuffix("-start")
  if opcode == instruction.opcode:
    return instruction
  if opcode == "copy":  # (result, operand, flag)
    results = instruction.arrays[:1]
  else:  # (operands, result, flags); some collectives give the results alone
    count = sum(len(each.arrays) for each in instruction.operands)
    results = instruction.arrays[count:] or instruction.arrays
  results = tuple(each for each in results if each.space in (HBM, VMEM))
  return dataclasses.replace(instruction, opcode=opcode, arrays=results)


def _hbm(arrays) -> int:
  return sum(array.bytes for array in arrays if array.space == HBM)


def _is_elementwise(instruction: Instruction, operand: Instruction) -> bool:
  return (
    instruction.opcode not in _NOT_ELEMENTWISE
    and len(instruction.arrays) == len(operand.arrays) == 1
    and instruction.arrays[0].dims == operand.arrays[0].dims
  )


def _fraction_read(instruction: Instruction, index: int) -> float:
  """The fraction of an operand that an operation reads."""
  opcode, whole = instruction.opcode, instruction.operands[index].bytes
  if index or opcode not in _SLICES or not whole:
    return 1.0
  if opcode == "dynamic-update-slice":
    return 0.0
  part = instruction.operands[-1] if opcode == "scatter" else instruction
  return min(1.0, part.bytes / whole)


def _update(instruction: Instruction) -> Instruction | None:
  """What an operation writes into its first operand in place, if it does."""
  index = {"dynamic-update-slice": 1, "scatter": -1}.get(instruction.opcode)
  return None if index is None else instruction.operands[index]
