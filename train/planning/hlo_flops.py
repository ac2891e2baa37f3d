"""Floating-point operations of convolutions and dots in HLO, as XLA counts them.

A multiply-add counts 2. Positions of a convolution's window that lie in the padding, or between
dilated elements, do no work and are left out.
https://openxla.org/xla/operation_semantics#convwithgeneralpadding_convolution
"""

import math
import re

import numpy as np

from train.planning.hlo_text import Array, Computation, Instruction


def matrix_flops(instruction: Instruction, inside: Computation) -> int:
  """Of a convolution or dot in the computation `inside`; 0 for any other instruction."""
  count = {"convolution": _convolution, "dot": _dot}.get(instruction.opcode)
  if count is None:
    return 0
  left, right = (inside.by_name[name].arrays[0] for name in instruction.operands[:2])
  return count(instruction, left, right)


def _dot(instruction: Instruction, left: Array, right: Array) -> int:
  contracted = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))
  return 2 * instruction.arrays[0].elements * math.prod(left.dims[int(i)] for i in contracted)


def _convolution(instruction: Instruction, left: Array, right: Array) -> int:
  labels = re.match(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels")).groups()
  arrays = (left, right, instruction.arrays[0])
  inputs, kernel, outputs = (
    dict(zip(label, array.dims, strict=True)) for label, array in zip(labels, arrays, strict=True)
  )
  groups, batch_groups = (
    int(instruction.attribute(name) or 1) for name in ("feature_group_count", "batch_group_count")
  )
  window = _window(instruction.attribute("window"))
  multiply_adds = (inputs["f"] // groups) * outputs["f"] * (inputs["b"] // batch_groups)
  for axis in range(len(inputs) - 2):
    sizes = (each[str(axis)] for each in (inputs, kernel, outputs))
    multiply_adds *= _valid_positions(*sizes, axis, window)
  return 2 * multiply_adds


def _window(text: str) -> dict[str, list[str]]:
  """{"size": ["3", "3"], "pad": ["1_1", "1_1"]} from "{size=3x3 pad=1_1x1_1}"."""
  return {name: values.split("x") for name, values in re.findall(r"(\w+)=([\d_x\-]+)", text)}


def _valid_positions(size: int, kernel: int, output: int, axis: int, window) -> int:
  """Pairs (kernel position, output position) of one axis that meet an element of the input."""

  def value(name, default):
    return window[name][axis] if name in window else default

  stride, base, dilation = (int(value(n, 1)) for n in ("stride", "lhs_dilate", "rhs_dilate"))
  low = int(value("pad", "0_0").split("_")[0])
  at = np.arange(output)[:, None] * stride + np.arange(kernel)[None, :] * dilation - low
  return int(np.sum((at >= 0) & (at <= (size - 1) * base) & (at % base == 0)))
