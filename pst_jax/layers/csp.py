"""The blocks of YOLO11 and YOLO12: parts of a map go through units, all parts are mixed at the end.

Cross-stage partial networks: arXiv 1911.11929; area attention: arXiv 2502.12524.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.layers.base import AttentionLayer, Layer
from pst_jax.layers.conv_norm import ConvNorm, block_init, pytorch_conv_init

AREA_HEAD_DIM = 32


class Bottleneck(Layer):
  """Two 3x3 ConvNorms with `expansion` * channels between them, added to the input."""

  expansion: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    out = self.make(ConvNorm, int(channels * self.expansion), 3, name="cv1")(x, train)
    return x + self.make(ConvNorm, channels, 3, name="cv2")(out, train)


class C3k(Layer):
  """Two Bottlenecks beside a 1x1 ConvNorm, concatenated and mixed."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    deep = self.make(ConvNorm, channels // 2, name="cv1")(x, train)
    for i in range(2):
      deep = self.make(Bottleneck, 1.0, name=f"m{i}")(deep, train)
    flat = self.make(ConvNorm, channels // 2, name="cv2")(x, train)
    mix = self.make(ConvNorm, channels, name="cv3")
    return mix(jnp.concatenate([deep, flat], axis=-1), train)


class C3k2(Layer):
  """1x1 ConvNorm split in halves, a unit on the second half, all three concatenated and mixed.

  The unit is a C3k, or a Bottleneck.
  """

  features: int
  c3k: bool
  expansion: float = 0.5

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
    hidden = int(self.features * self.expansion)
    halves = self.make(ConvNorm, 2 * hidden, name="cv1")(x, train)
    first, second = jnp.split(halves, 2, axis=-1)
    unit = self.make(C3k, name="m0") if self.c3k else self.make(Bottleneck, 0.5, name="m0")
    mix = self.make(ConvNorm, self.features, name="cv2")
    return mix(jnp.concatenate([first, second, unit(second, train)], axis=-1), train)


class Attention(AttentionLayer):
  """Attention between positions, with a depthwise position term.

  Attributes:
    head_dim, key_dim: channels of a head's values, and of its queries and keys.
    kernel: side of the windows of the position term.
    area: equal runs of the map's rows that attention stays inside; their number divides the
      positions of the map.
  """

  head_dim: int
  key_dim: int
  kernel: int
  area: int = 1
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    heads, widths = channels // self.head_dim, 2 * self.key_dim + self.head_dim
    linear = functools.partial(self.make, ConvNorm, activation=None)
    qkv = linear(heads * widths, name="qkv")(x, train)
    qkv = qkv.reshape(x.shape[0] * self.area, -1, heads, widths)
    q, k, v = jnp.split(qkv, [self.key_dim, 2 * self.key_dim], axis=-1)
    position = linear(channels, self.kernel, depthwise=True, name="pe")(v.reshape(x.shape), train)
    out = ops.coarse_attention(q, k, v, implementation=self.coarse_implementation)
    out = out.reshape(x.shape)
    return linear(channels, name="proj")(out + position, train)


class AttentionBlock(AttentionLayer):
  """Attention and a feed-forward of two 1x1 ConvNorms, each with a residual."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    head_dim = channels // max(1, channels // 64)
    x = x + self.make(Attention, head_dim, head_dim // 2, 3, name="attn")(x, train)
    out = self.make(ConvNorm, 2 * channels, name="ffn0")(x, train)
    return x + self.make(ConvNorm, channels, activation=None, name="ffn1")(out, train)


class C2PSA(AttentionLayer):
  """1x1 ConvNorm split in halves, an AttentionBlock on the second, concatenated and mixed."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    first, second = jnp.split(self.make(ConvNorm, channels, name="cv1")(x, train), 2, axis=-1)
    second = self.make(AttentionBlock, name="m0")(second, train)
    mix = self.make(ConvNorm, channels, name="cv2")
    return mix(jnp.concatenate([first, second], axis=-1), train)


class AreaBlock(AttentionLayer):
  """Area attention and an MLP of two 1x1 ConvNorms, each with a residual."""

  area: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    fields = (AREA_HEAD_DIM, AREA_HEAD_DIM, 7, self.area)
    x = x + self.make(Attention, *fields, kernel_init=block_init, name="attn")(x, train)
    conv_norm = functools.partial(self.make, ConvNorm, kernel_init=block_init)
    hidden = conv_norm(2 * channels, name="mlp0")(x, train)
    return x + conv_norm(channels, activation=None, name="mlp1")(hidden, train)


class A2C2f(AttentionLayer):
  """1x1 ConvNorm, then units one after the other; the results of all are concatenated and mixed.

  Attributes:
    features: channels of the result; with attention a multiple of 64.
    num_units: units in a row.
    area: a unit is two AreaBlocks of so many areas; None: a C3k.
  """

  features: int
  num_units: int
  area: int | None

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
    maps = [self.make(ConvNorm, self.features // 2, name="cv1")(x, train)]
    for i in range(self.num_units):
      maps.append(self._unit(i, maps[-1], train))
    mix = self.make(ConvNorm, self.features, name="cv2")
    return mix(jnp.concatenate(maps, axis=-1), train)

  def _unit(self, i, x, train):
    if self.area is None:
      return self.make(C3k, name=f"m{i}")(x, train)
    for j in range(2):
      x = self.make(AreaBlock, self.area, name=f"m{i}_{j}")(x, train)
    return x


class SPPF(Layer):
  """Spatial pyramid pooling: the maxima of windows of 5, 9 and 13, beside the map itself.

  Three pools of 5x5 one after the other have the same windows (arXiv 1406.4729, made quick).
  """

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    maps = [self.make(ConvNorm, x.shape[-1] // 2, name="cv1")(x, train)]
    for _ in range(3):
      maps.append(ops.max_filter(maps[-1], 5))
    mix = self.make(ConvNorm, x.shape[-1], name="cv2")
    return mix(jnp.concatenate(maps, axis=-1), train)


class Stage(Layer):
  """3x3 ConvNorm that may halve the map, then a C3k2."""

  down_features: int
  strides: int
  features: int
  c3k: bool
  expansion: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hh ww features"]:
    x = self.make(ConvNorm, self.down_features, 3, self.strides, name="down")(x, train)
    return self.make(C3k2, self.features, self.c3k, self.expansion, name="units")(x, train)


class AreaStage(AttentionLayer):
  """3x3 ConvNorm that halves the map, then an A2C2f of two units of area attention."""

  down_features: int
  features: int
  area: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hh ww features"]:
    x = self.make(ConvNorm, self.down_features, 3, 2, name="down")(x, train)
    return self.make(A2C2f, self.features, 2, self.area, name="units")(x, train)
