"""The head of the detectors: boxes and classes at three strides."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.detection import BINS, STRIDES
from pst_jax.layers import ConvNorm, Layer
from pst_jax.layers.base import Map
from pst_jax.layers.conv_norm import pytorch_conv_init

# Class biases start so that about 5 objects are seen on an image of 640 pixels.
START_OBJECTS, START_SIZE = 5, 640


class BoxBranch(Layer):
  """Two 3x3 ConvNorms and the logits of the bins of four sides."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w bins"]:
    for i in range(2):
      x = self.make(ConvNorm, self.features, 3, name=f"conv{i}")(x, train)
    return self.make(Output, 4 * BINS, 1.0, name="out")(x)


class ClassBranch(Layer):
  """Twice a depthwise 3x3 and a 1x1 ConvNorm, and the logits of the classes."""

  features: int
  num_classes: int
  bias: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w classes"]:
    for i in range(2):
      x = self.make(ConvNorm, x.shape[-1], 3, depthwise=True, name=f"depthwise{i}")(x, train)
      x = self.make(ConvNorm, self.features, name=f"pointwise{i}")(x, train)
    return self.make(Output, self.num_classes, self.bias, name="out")(x)


class Output(Layer):
  """1x1 convolution with bias, in the wide type: its output goes into the loss."""

  features: int
  bias: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
    shape = (1, 1, x.shape[-1], self.features)
    kernel = self.param("kernel", pytorch_conv_init, shape, self.param_dtype)
    start = nn.initializers.constant(self.bias)
    bias = self.param("bias", start, (self.features,), self.param_dtype)
    return ops.conv2d(x.astype(self.param_dtype), kernel) + bias


class Detect(Layer):
  """Raw maps of 64 + classes channels at strides 8, 16, 32; see `pst_jax.detection.decode`."""

  num_classes: int

  @nn.compact
  def __call__(self, maps: Sequence[Map], train: bool) -> tuple[Map, ...]:
    finest = maps[0].shape[-1]
    box_features = max(16, finest // 4, 4 * BINS)
    class_features = max(finest, min(self.num_classes, 100))
    out = []
    for i, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
      bias = math.log(START_OBJECTS / self.num_classes / (START_SIZE / stride) ** 2)
      fields = (class_features, self.num_classes, bias)
      sides = self.make(BoxBranch, box_features, name=f"box{i}")(x, train)
      classes = self.make(ClassBranch, *fields, name=f"class{i}")(x, train)
      out.append(jnp.concatenate([sides, classes], axis=-1))
    return tuple(out)
