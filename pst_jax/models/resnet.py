"""The backbone: torchvision's ResNet and the paper's variant of it (arXiv 1512.03385)."""

from collections.abc import Callable
from typing import Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.layers import ConvNorm, Layer
from pst_jax.models.network import scale_width
from pst_jax.models.remat import stage_class

STAGE_FEATURES = (64, 128, 256, 512)


class BasicBlock(Layer):
  """Two 3x3 convolutions and a shortcut."""

  features: int
  strides: int
  activation: Callable
  kernel_init: Callable
  expansion = 1

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hh ww features"]:
    fields = {"kernel_init": self.kernel_init, **self.shared}
    out = ConvNorm(
      self.features, 3, self.strides, activation=self.activation, name="cv1", **fields
    )(x, train)
    out = ConvNorm(self.features, 3, activation=None, name="cv2", **fields)(out, train)
    return jax.nn.relu(out + _shortcut(x, self.features, self.strides, fields, train))


class BottleneckBlock(Layer):
  """1x1, 3x3 (strided) and 1x1 convolutions, four times as wide at the end, and a shortcut."""

  features: int
  strides: int
  activation: Callable
  kernel_init: Callable
  expansion = 4

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hh ww 4*features"]:
    fields = {"kernel_init": self.kernel_init, **self.shared}
    inner = {"activation": self.activation, **fields}
    wide = self.features * self.expansion
    out = ConvNorm(self.features, 1, name="cv1", **inner)(x, train)
    out = ConvNorm(self.features, 3, self.strides, name="cv2", **inner)(out, train)
    out = ConvNorm(wide, 1, activation=None, name="cv3", **fields)(out, train)
    return jax.nn.relu(out + _shortcut(x, wide, self.strides, fields, train))


def _shortcut(x, features, strides, fields, train):
  if strides == 1 and x.shape[-1] == features:
    return x
  return ConvNorm(features, 1, strides, activation=None, name="shortcut", **fields)(x, train)


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class Stage(Layer):
  """Blocks of one width; the first may halve the map."""

  block: Literal["basic", "bottleneck"]
  num_blocks: int
  features: int
  strides: int
  activation: Callable
  kernel_init: Callable

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hh ww features"]:
    for i in range(self.num_blocks):
      strides = self.strides if i == 0 else 1
      x = BLOCKS[self.block](
        self.features, strides, self.activation, self.kernel_init, name=f"block{i}", **self.shared
      )(x, train)
    return x


class ResNet(Layer):
  """Stem and four stages.

  Attributes:
    stage_sizes: blocks of each stage.
    block: kind of block.
    activation: inside the blocks and after the stem; after the sum of a block it is always ReLU.
    stem: `imagenet` is 7x7 stride 2 and a 3x3 stride 2 max pool; `small` is 3x3 stride 1, no pool.
    width: multiplies every number of channels, rounded to multiples of 8.
    remat, remat_policy: see `Network`.
  """

  stage_sizes: tuple[int, ...]
  block: Literal["basic", "bottleneck"]
  activation: Callable
  kernel_init: Callable
  stem: Literal["imagenet", "small"] = "imagenet"
  width: float = 1.0
  remat: bool = False
  remat_policy: Literal["nothing", "convolutions"] = "nothing"

  @nn.compact
  def __call__(
    self, images: Float[Array, "batch height width 3"], train: bool = False
  ) -> tuple[Float[Array, "batch h w c"], ...]:
    """The output map of every stage, each half the size of the one before."""
    kernel, strides = {"imagenet": (7, 2), "small": (3, 1)}[self.stem]
    x = ConvNorm(
      scale_width(64, self.width),
      kernel,
      strides,
      activation=self.activation,
      kernel_init=self.kernel_init,
      name="stem",
      **self.shared,
    )(images, train)
    if self.stem == "imagenet":
      x = ops.max_pool(x)
    stage = stage_class(Stage, self)
    maps = []
    for i, num_blocks in enumerate(self.stage_sizes):
      x = stage(
        self.block,
        num_blocks,
        scale_width(STAGE_FEATURES[i], self.width),
        1 if i == 0 else 2,
        self.activation,
        self.kernel_init,
        name=f"stage{i + 1}",
        **self.shared,
      )(x, train)
      maps.append(x)
    return tuple(maps)
