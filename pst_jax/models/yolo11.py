"""YOLO11 classification networks with PST: yolo11n-cls-pst, yolo11s-cls-pst, yolo11m-cls-pst."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.layers import PST, ConvNorm, Layer
from pst_jax.models.network import HEAD_FEATURES, Head, Network, scale_width
from pst_jax.models.remat import stage_class


class Bottleneck(Layer):
  """Two 3x3 ConvNorms with `expansion` * channels between them, added to the input."""

  expansion: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    out = ConvNorm(int(channels * self.expansion), 3, name="cv1", **self.shared)(x, train)
    return x + ConvNorm(channels, 3, name="cv2", **self.shared)(out, train)


class C3k(Layer):
  """Two Bottlenecks beside a 1x1 ConvNorm, concatenated and mixed."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    deep = ConvNorm(channels // 2, name="cv1", **self.shared)(x, train)
    for i in range(2):
      deep = Bottleneck(1.0, name=f"m{i}", **self.shared)(deep, train)
    flat = ConvNorm(channels // 2, name="cv2", **self.shared)(x, train)
    mix = ConvNorm(channels, name="cv3", **self.shared)
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
    halves = ConvNorm(2 * hidden, name="cv1", **self.shared)(x, train)
    first, second = jnp.split(halves, 2, axis=-1)
    unit = C3k(name="m0", **self.shared) if self.c3k else Bottleneck(0.5, name="m0", **self.shared)
    mix = ConvNorm(self.features, name="cv2", **self.shared)
    return mix(jnp.concatenate([first, second, unit(second, train)], axis=-1), train)


class Attention(Layer):
  """Attention over all positions, keys half as wide as values, with a depthwise position term."""

  num_heads: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    dim = channels // self.num_heads
    linear = {"activation": None, **self.shared}
    qkv = ConvNorm(2 * channels, name="qkv", **linear)(x, train)
    qkv = qkv.reshape(x.shape[0], -1, self.num_heads, 2 * dim)
    q, k, v = jnp.split(qkv, [dim // 2, dim], axis=-1)
    position = ConvNorm(channels, 3, depthwise=True, name="pe", **linear)(v.reshape(x.shape), train)
    out = ops.coarse_attention(q, k, v).reshape(x.shape)
    return ConvNorm(channels, name="proj", **linear)(out + position, train)


class AttentionBlock(Layer):
  """Attention and a feed-forward of two 1x1 ConvNorms, each with a residual."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    x = x + Attention(max(1, channels // 64), name="attn", **self.shared)(x, train)
    out = ConvNorm(2 * channels, name="ffn0", **self.shared)(x, train)
    return x + ConvNorm(channels, activation=None, name="ffn1", **self.shared)(out, train)


class C2PSA(Layer):
  """1x1 ConvNorm split in halves, an AttentionBlock on the second, concatenated and mixed."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    channels = x.shape[-1]
    first, second = jnp.split(ConvNorm(channels, name="cv1", **self.shared)(x, train), 2, axis=-1)
    second = AttentionBlock(name="m0", **self.shared)(second, train)
    mix = ConvNorm(channels, name="cv2", **self.shared)
    return mix(jnp.concatenate([first, second], axis=-1), train)


class Stage(Layer):
  """3x3 ConvNorm that may halve the map, then a C3k2."""

  down_features: int
  strides: int
  features: int
  c3k: bool
  expansion: float

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b hh ww features"]:
    x = ConvNorm(self.down_features, 3, self.strides, name="down", **self.shared)(x, train)
    return C3k2(self.features, self.c3k, self.expansion, name="units", **self.shared)(x, train)


class Yolo11Classifier(Network):
  """The three sizes; their depth of 0.5 makes every repeat of the layer table one.

  Attributes:
    scale: multiplies the channels 64, 128, 256, 512, 1024.
    max_channels: channels are cut to this before that.
    always_c3k: C3k units in every C3k2, not in the deep ones alone.
  """

  scale: float
  max_channels: int
  always_c3k: bool

  def setup(self):
    c1, c2, c3, c4, c5 = (
      scale_width(math.ceil(min(c, self.max_channels) * self.scale / 8) * 8, self.width)
      for c in (64, 128, 256, 512, 1024)
    )
    # PST is half as wide inside and made of heads of 32 channels.
    c5 = scale_width(c5, 1.0, 64)
    early = 2 if self.stem == "imagenet" else 1
    stage = stage_class(Stage, self)
    self.stem_conv = ConvNorm(c1, 3, early, **self.shared)
    self.stage1 = stage(c2, early, c3, self.always_c3k, 0.25, **self.shared)
    self.stage2 = stage(c3, 2, c4, self.always_c3k, 0.25, **self.shared)
    self.stage3 = stage(c4, 2, c4, True, 0.5, **self.shared)
    self.stage4 = ConvNorm(c5, 3, 2, **self.shared)
    self.pst = PST(c5, **self.shared, **self.attention)
    self.down = ConvNorm(c5, 3, 2, **self.shared)
    self.mix = C3k2(c5, True, **self.shared)
    self.self_attention = C2PSA(**self.shared)
    features = scale_width(HEAD_FEATURES, self.width)
    self.head = Head(self.num_classes, features, self.dropout, **self.shared)

  def maps(self, images, train):
    x, maps = self.stem_conv(images, train), {}
    for name in ("stage1", "stage2", "stage3", "stage4"):
      maps[name] = x = getattr(self, name)(x, train)
    maps["pst"] = self.pst(maps["stage3"], maps["stage4"], train)
    x = self.down(jnp.concatenate([maps["pst"], maps["stage3"]], axis=-1), train)
    x = self.mix(jnp.concatenate([x, maps["stage4"]], axis=-1), train)
    return maps, self.self_attention(x, train)
