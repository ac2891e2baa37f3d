"""ConvNorm: convolution, BatchNorm, activation."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.errors import UserError
from pst_jax.layers.base import Layer, Map
from pst_jax.layers.norm import BatchNorm

IN_BLOCKS = 12
"""Channels of an image of which each block of 2x2 pixels is one: rows first, then columns, RGB."""
# The name of convolutions' outputs for policies of rematerialisation.
CONVOLUTION = "convolution"
# What torch.nn.Conv2d starts from: uniform in +-1/sqrt(fan_in).
pytorch_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Convolutions of attention blocks; the authors cut at +-2, which a deviation of 0.02 never reaches.
block_init = nn.initializers.normal(0.02)


class Conv(Layer):
  """Convolution without bias, padded by kernel // 2 on every side.

  With `of_image` and stride 2, `x` may also have the blocks of 2x2 pixels of an image as channels.
  """

  features: int
  kernel: int = 1
  strides: int = 1
  depthwise: bool = False
  of_image: bool = False
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(self, x: Map) -> Float[Array, "batch new_height new_width features"]:
    convolve = functools.partial(ops.conv2d, strides=self.strides)
    channels = 1 if self.depthwise else x.shape[-1]
    if self.of_image and self.strides == 2 and channels == IN_BLOCKS:
      convolve, channels = ops.conv2d_of_blocks, 3
    shape = (self.kernel, self.kernel, channels, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    out = convolve(x.astype(self.dtype), kernel.astype(self.dtype))
    return checkpoint_name(out, CONVOLUTION)


class ConvNorm(Layer):
  """Convolution without bias, BatchNorm, then `activation` (None: nothing).

  With `folded` a bias takes the place of BatchNorm.
  """

  features: int
  kernel: int = 1
  strides: int = 1
  depthwise: bool = False
  of_image: bool = False
  activation: Callable | None = jax.nn.silu
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(self, x: Map, train: bool) -> Float[Array, "batch new_height new_width features"]:
    fields = (self.features, self.kernel, self.strides, self.depthwise, self.of_image)
    x = self.make(Conv, *fields, name="conv")(x)
    norm = self._add_bias if self.folded else self.make(BatchNorm, name="bn")
    x = norm(x, train)
    return x if self.activation is None else self.activation(x)

  def _add_bias(self, x, train):
    if train:
      raise UserError(
        "a network whose BatchNorm is folded cannot train: train it with folded=False"
      )
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
    return (x + bias).astype(x.dtype)

  def affine(self) -> tuple[Float[Array, "channels features"], Float[Array, "features"]]:
    """Kernel and bias of the affine map that a 1x1 layer is in evaluation, before activation.

    Only after the layer was called: its parameters must exist.
    """
    params = self.variables["params"]
    kernel = jnp.squeeze(params["conv"]["kernel"], (0, 1))
    if self.folded:
      return kernel, params["bias"]
    norm, statistics = params["bn"], self.variables["batch_stats"]["bn"]
    factor = norm["scale"] * jax.lax.rsqrt(statistics["var"] + self.epsilon)
    return kernel * factor, norm["bias"] - statistics["mean"] * factor
