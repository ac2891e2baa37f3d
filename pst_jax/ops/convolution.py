"""Convolution and max pooling in the forms that XLA compiles well: NHWC maps, HWIO kernels.

On every platform but the CPU these are XLA's own operations. The forms for the CPU were measured
with jaxlib 0.10.2; they differ from XLA's operations by the order of float sums alone.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def conv2d(
  x: Float[Array, "batch height width channels"],
  kernel: Float[Array, "side side channels_per_group features"],
  strides: int = 1,
) -> Float[Array, "batch new_height new_width features"]:
  """Convolution without bias, padded by side // 2 on every side.

  ('SAME' padding would differ from PyTorch's at stride 2.)

  `channels_per_group` is 1 for a depthwise convolution, else the channels of `x`.
  """
  side, _, per_group, features = kernel.shape
  plain = functools.partial(_convolve, strides=strides)
  if side == 1:
    product = functools.partial(_multiply_rows, strides=strides)
    return lax.platform_dependent(x, kernel, cpu=product, default=plain)
  if per_group == 1 and features == x.shape[-1] > 1 and strides == 1:
    return _depthwise(x, kernel)
  return plain(x, kernel)


def conv2d_of_blocks(
  x: Float[Array, "batch height width four_channels"],
  kernel: Float[Array, "side side channels features"],
) -> Float[Array, "batch height width features"]:
  """`conv2d` of stride 2 of an image that comes with its blocks of 2x2 pixels as channels.

  The same sums in another order. A TPU computes with 128 channels at a time, whatever they hold:
  12 of them waste less than 3.

  Args:
    x: channel 6 i + 3 j + c (of 3 channels) is channel c of row i and column j of a block.
    kernel: of the image itself; its side is odd.
  """
  side, _, channels, features = kernel.shape
  padding = side // 2
  before = (padding + 1) // 2  # blocks that a window reaches to the left of its own
  blocks = before + padding // 2 + 1
  front = 2 * before - padding
  edge = (front, 2 * blocks - side - front)
  kernel = jnp.pad(kernel, (edge, edge, (0, 0), (0, 0)))
  kernel = kernel.reshape(blocks, 2, blocks, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
  return lax.conv_general_dilated(
    x,
    kernel.reshape(blocks, blocks, 4 * channels, features),
    window_strides=(1, 1),
    padding=[(before, padding // 2)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _convolve(x, kernel, strides=1):
  padding = kernel.shape[0] // 2
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(strides, strides),
    padding=[(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1] // kernel.shape[2],
  )


def _multiply_rows(x, kernel, strides):
  """1x1 convolution as a product of two matrices; with more axes XLA transposes whole maps."""
  x = x[:, ::strides, ::strides]
  return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


def _sum_of_taps(x, kernel):
  """Depthwise convolution of stride 1 as one multiply-add of a shifted map for each tap."""
  side, (height, width), dtype = kernel.shape[0], x.shape[1:3], x.dtype
  # Each sum would be rounded, and XLA would make a program of each tap.
  if dtype == jnp.bfloat16:
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
  edge = (side // 2, side // 2)
  x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
  taps = itertools.product(range(side), repeat=2)
  return sum(x[:, i : i + height, j : j + width] * kernel[i, j, 0] for i, j in taps).astype(dtype)


@jax.custom_vjp
def _depthwise(x, kernel):
  return lax.platform_dependent(x, kernel, cpu=_sum_of_taps, default=_convolve)


def _depthwise_backward(saved, gradient):
  def on_cpu(x, kernel, gradient):
    # XLA takes many seconds to compile the gradients of 49 taps; this is as fast to run.
    (of_kernel,) = jax.vjp(lambda kernel: _convolve(x, kernel), kernel)[1](gradient)
    return _sum_of_taps(gradient, kernel[::-1, ::-1]), of_kernel

  def elsewhere(x, kernel, gradient):
    return jax.vjp(_convolve, x, kernel)[1](gradient)

  return lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=elsewhere)


_depthwise.defvjp(lambda x, kernel: (_depthwise(x, kernel), (x, kernel)), _depthwise_backward)


def max_filter(
  x: Float[Array, "batch height width channels"], side: int
) -> Float[Array, "batch height width channels"]:
  """Largest value of every side x side window, stride 1: first along columns, then along rows."""
  edge = side // 2
  for axis in (1, 2):
    padding = [(0, 0)] * 4
    padding[axis] = (edge, edge)
    wide = jnp.pad(x, padding, constant_values=-jnp.inf)
    shifted = (lax.slice_in_dim(wide, i, i + x.shape[axis], axis=axis) for i in range(side))
    x = functools.reduce(jnp.maximum, shifted)
  return x


@jax.custom_vjp
def max_pool(
  x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch new_height new_width channels"]:
  """Largest value of 3x3 windows, stride 2, padding 1; the gradient goes to the first one."""
  largest = functools.partial(functools.reduce, jnp.maximum)
  return lax.platform_dependent(x, cpu=lambda x: largest(_windows(x)), default=_reduce_window)


def _reduce_window(x):
  padding = ((0, 0), (1, 1), (1, 1), (0, 0))
  return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def _windows(x):
  """The nine shifted maps under a 3x3 window of stride 2."""
  rows, columns = ((size + 1) // 2 for size in x.shape[1:3])
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  return [
    x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
    for i, j in itertools.product(range(3), repeat=2)
  ]


def _backward(x, gradient):
  return (
    lax.platform_dependent(
      x,
      gradient,
      cpu=_interleave_gradient,
      default=lambda x, gradient: jax.vjp(_reduce_window, x)[1](gradient)[0],
    ),
  )


# The forms of the platforms would save different things for the backward pass, so only `x` is.
max_pool.defvjp(lambda x: (max_pool(x), x), _backward)


def _interleave_gradient(x, gradient):
  """The gradient without scattering.

  An even row or column of `x` lies under one window row or column, as its middle; an odd one under
  two, as the last of one and the first of the next. So `x` is four interleaved maps, each of which
  sums the gradients of the windows whose maximum it is.
  """
  (height, width), (rows, columns) = x.shape[1:3], gradient.shape[1:3]
  edge = ((0, 0), (0, 1), (0, 1), (0, 0))
  place = jnp.pad(_place_of_maximum(_windows(x)), edge, constant_values=-1)
  gradient = jnp.pad(gradient, edge)
  under = (((1, 0),), ((2, 0), (0, 1)))  # (row in the window, which window) of even and odd rows

  def quarter(row_parity, column_parity):
    total = 0
    for (i, row), (j, column) in itertools.product(under[row_parity], under[column_parity]):
      window = (slice(None), slice(row, row + rows), slice(column, column + columns))
      total += jnp.where(place[window] == 3 * i + j, gradient[window], 0)
    return total

  pairs = [jnp.stack([quarter(a, 0), quarter(a, 1)], axis=3) for a in range(2)]
  whole = jnp.stack(pairs, axis=2).reshape(x.shape[0], 2 * rows, 2 * columns, x.shape[3])
  return whole[:, :height, :width]


def _place_of_maximum(windows):
  """Which of the nine maps holds the largest value; the first of equal ones."""
  best, *others = windows
  place = jnp.zeros(best.shape, jnp.int8)
  for number, value in enumerate(others, 1):
    larger = value > best
    best, place = jnp.where(larger, value, best), jnp.where(larger, jnp.int8(number), place)
  return place
