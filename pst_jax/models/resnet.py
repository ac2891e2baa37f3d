"""The backbone: torchvision's ResNet and the paper's variant of it (arXiv 1512.03385)."""

from collections.abc import Callable
from typing import Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.architectures import STAGE_FEATURES, scale_width
from pst_jax.layers import ConvNorm, Layer
from pst_jax.layers.base import Map, Positions
from pst_jax.layers.dropping import drop
from pst_jax.models.network import stage_class


class Block(Layer):
  """Convolutions and a shortcut, which is projected where they change the map's shape.

  Attributes:
    kind: `basic` is two of 3x3; `bottleneck` is 1x1, 3x3 and 1x1, four times as wide at the end.
    strides: of the first 3x3 convolution.
    drop_rate: in training, how often an example takes the shortcut alone.
  """

  kind: Literal["basic", "bottleneck"]
  features: int
  strides: int
  activation: Callable
  drop_rate: float
  kernel_init: Callable

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool, positions: Positions | None = None
  ) -> Float[Array, "b hh ww cc"]:
    narrow, wide, out = self.features, 4 * self.features, x
    layers = [(narrow, 3, self.strides), (narrow, 3, 1)]
    if self.kind == "bottleneck":
      layers = [(narrow, 1, 1), (narrow, 3, self.strides), (wide, 1, 1)]
    for i, fields in enumerate(layers, 1):
      activation = self.activation if i < len(layers) else None
      out = self.make(ConvNorm, *fields, activation=activation, name=f"cv{i}")(out, train)
    if self.strides != 1 or x.shape[-1] != out.shape[-1]:
      fields = (out.shape[-1], 1, self.strides)
      x = self.make(ConvNorm, *fields, activation=None, name="shortcut")(x, train)
    if train and self.drop_rate:
      out = drop(out, self.drop_rate, self.make_rng("dropout"), positions, whole=True)
    return jax.nn.relu(out + x)


class Stage(Layer):
  """Blocks of one width, one for each of `drop_rates`; the first may halve the map."""

  block: Literal["basic", "bottleneck"]
  features: int
  strides: int
  activation: Callable
  drop_rates: tuple[float, ...]
  kernel_init: Callable

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool, positions: Positions | None = None
  ) -> Float[Array, "b hh ww features"]:
    for i, drop_rate in enumerate(self.drop_rates):
      strides = self.strides if i == 0 else 1
      fields = (self.block, self.features, strides, self.activation, drop_rate)
      x = self.make(Block, *fields, name=f"block{i}")(x, train, positions)
    return x


class ResNet(Layer):
  """Stem and four stages.

  Attributes:
    stage_sizes: blocks of each stage.
    block: kind of block.
    activation: inside the blocks and after the stem; after the sum of a block it is always ReLU.
    stem: `imagenet` is 7x7 stride 2 and a 3x3 stride 2 max pool; `small` is 3x3 stride 1, no pool.
    width: multiplies every number of channels, rounded to multiples of 8.
    stochastic_depth: `drop_rate` of the last block; those before it rise to it on a line from 0.
    remat, remat_policy: see `pst_jax.models.Network`.
  """

  stage_sizes: tuple[int, ...]
  block: Literal["basic", "bottleneck"]
  activation: Callable
  kernel_init: Callable
  stem: Literal["imagenet", "small"] = "imagenet"
  width: float = 1.0
  stochastic_depth: float = 0.0
  remat: bool = False
  remat_policy: Literal["nothing", "convolutions"] = "nothing"

  @nn.compact
  def __call__(
    self,
    images: Map,
    train: bool = False,
    positions: Positions | None = None,
  ) -> tuple[Map, ...]:
    """The output map of every stage, each half the size of the one before."""
    kernel, strides = {"imagenet": (7, 2), "small": (3, 1)}[self.stem]
    features = scale_width(STAGE_FEATURES[0], self.width)
    fields = (features, kernel, strides)
    stem = self.make(ConvNorm, *fields, of_image=True, activation=self.activation, name="stem")
    x = stem(images, train)
    if self.stem == "imagenet":
      x = ops.max_pool(x)
    stage, total = stage_class(Stage, self), sum(self.stage_sizes)
    maps, done = [], 0
    for i, num_blocks in enumerate(self.stage_sizes):
      features = scale_width(STAGE_FEATURES[i], self.width)
      # Equation 4 of arXiv 1603.09382.
      rates = tuple(self.stochastic_depth * (done + j + 1) / total for j in range(num_blocks))
      fields = (self.block, features, 1 if i == 0 else 2, self.activation, rates)
      x = self.make(stage, *fields, name=f"stage{i + 1}")(x, train, positions)
      maps.append(x)
      done += num_blocks
    return tuple(maps)
