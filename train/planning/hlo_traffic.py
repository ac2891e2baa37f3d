"""Bytes that the operations of an HLO module move from and to HBM.

What counts is every operand that an operation or fusion reads from HBM, once, and every result that
it writes there; copies and prefetches between HBM and on-chip memory on the side that is in HBM.
Buffers whose layout names another memory space (VMEM, flags, scalars) do not count, nor does what
happens inside a fusion. Of an operand that is only sliced or gathered from, the part that is read
counts, and of a result that is updated in place, the part that is written.

It is a lower bound: a convolution whose operands do not fit on the chip may read them again.
"""

import dataclasses
import functools

from train.planning.hlo_text import HBM, VMEM, Computation, Instruction, Module

# Their results are names for memory that is there already.
_FREE_TARGETS = {'"AllocateBuffer"', '"ConcatBitcast"'}
_SLICES = {"slice", "dynamic-slice", "gather", "dynamic-update-slice", "scatter"}
_TRANSPARENT = {"bitcast", "reshape", "get-tuple-element", "tuple"}
_NOT_ELEMENTWISE = _SLICES | {"convolution", "dot", "reduce-window", "select-and-scatter", "sort"}
_NOT_ELEMENTWISE |= {
  "fusion",
  "custom-call",
  "reverse",
  "transpose",
  "concatenate",
  "pad",
  "reduce",
}


class Traffic:
  def __init__(self, module: Module):
    self._computations = module.computations

  def of(self, inside: Computation, instruction: Instruction) -> tuple[int, int]:
    """(bytes read from HBM, bytes written to it) by one instruction of `inside`."""
    operands = [inside.by_name[name] for name in instruction.operands]
    instruction = _plain(instruction, operands)
    if instruction.attribute("custom_call_target") in _FREE_TARGETS:
      return 0, 0
    if instruction.opcode == "fusion":
      return self._fusion(instruction, operands)
    read = sum(
      round(_hbm(each.arrays) * _share(instruction, i, operands)) for i, each in enumerate(operands)
    )
    written = _hbm(instruction.arrays)
    update = _update(instruction, operands)
    return read, written if update is None else min(written, update.bytes)

  def _fusion(self, instruction: Instruction, operands) -> tuple[int, int]:
    fused = self._computations[instruction.called("calls")[0]]
    read = 0
    for i, operand in enumerate(operands):
      share, is_result = self._uses(fused.name, fused.parameters[i].name)
      read += round(_hbm(operand.arrays) * (1 if is_result else min(share, 1)))
    root = fused.root
    results = [root]
    if root.opcode == "tuple":
      results = [fused.by_name[name] for name in root.operands]
    if len(results) != len(instruction.arrays):
      return read, _hbm(instruction.arrays)
    return read, sum(
      min(array.bytes, self._written(fused, result))
      for array, result in zip(instruction.arrays, results, strict=True)
      if array.space == HBM
    )

  @functools.cache  # noqa: B019 - it lives as long as one module is read
  def _uses(self, fused_name: str, source_name: str) -> tuple[float, bool]:
    """The share of a value that its users read; whether the computation's result is all of it."""
    fused = self._computations[fused_name]
    source = fused.by_name[source_name]
    share, is_result = 0.0, source.is_root
    for user in fused.users[source_name]:
      operands = [fused.by_name[name] for name in user.operands]
      for i, operand in enumerate(operands):
        if operand is not source:
          continue
        goes_on = user.opcode in _TRANSPARENT or _is_elementwise(user, operand)
        if user.opcode == "fusion":
          inner = self._computations[user.called("calls")[0]]
          part, goes_on = self._uses(inner.name, inner.parameters[i].name)
          share += part
        elif not goes_on:
          share += _share(user, i, operands)
        if goes_on:
          part, is_whole = self._uses(fused_name, user.name)
          share, is_result = share + part, is_result or is_whole
    return share, is_result

  def _written(self, fused: Computation, result: Instruction) -> int:
    operands = [fused.by_name[name] for name in result.operands]
    if result.opcode == "bitcast":
      return self._written(fused, operands[0])
    if result.opcode == "fusion" and len(result.arrays) == 1:
      inner = self._computations[result.called("calls")[0]]
      return self._written(inner, inner.root)
    update = _update(result, operands)
    return result.bytes if update is None else update.bytes


def _plain(instruction: Instruction, operands: list[Instruction]) -> Instruction:
  """An asynchronous start, which gives more than its result, as the plain operation."""
  opcode = instruction.opcode.removesuffix("-start")
  if opcode == instruction.opcode:
    return instruction
  if opcode == "copy":  # (result, operand, flag)
    results = instruction.arrays[:1]
  else:  # (operands, result, flags); some collectives give the results alone
    count = sum(len(each.arrays) for each in operands)
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


def _share(instruction: Instruction, index: int, operands: list[Instruction]) -> float:
  """The share of an operand that an operation reads."""
  opcode, whole = instruction.opcode, operands[index].bytes
  if index or opcode not in _SLICES or not whole:
    return 1.0
  if opcode == "dynamic-update-slice":
    return 0.0
  part = operands[-1] if opcode == "scatter" else instruction
  return min(1.0, part.bytes / whole)


def _update(instruction: Instruction, operands: list[Instruction]) -> Instruction | None:
  """What an operation writes into its first operand in place, if it does."""
  index = {"dynamic-update-slice": 1, "scatter": -1}.get(instruction.opcode)
  return None if index is None else operands[index]
