"""Classification networks: a backbone, the fusion of its last two stages by PST, a head."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.layers import PST, ConvNorm, Layer
from pst_jax.layers.conv_norm import pytorch_conv_init
from pst_jax.models.resnet import ResNet, scale_width

HEAD_FEATURES = 1280

# Activation and initial kernels of the backbone.
FAMILIES = {
  "paper": (jax.nn.silu, pytorch_conv_init),
  "torchvision": (jax.nn.relu, nn.initializers.variance_scaling(2.0, "fan_out", "normal")),
}


class Head(Layer):
  """ConvNorm 1x1 to `features` (None: none), mean over the map, dropout, linear layer."""

  num_classes: int
  features: int | None
  dropout: float
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], train: bool
  ) -> Float[Array, "batch num_classes"]:
    if self.features is not None:
      fields = {"kernel_init": self.kernel_init, **self.shared}
      x = ConvNorm(self.features, name="conv", **fields)(x, train)
    x = jnp.mean(x, axis=(1, 2), dtype=self.param_dtype)
    x = nn.Dropout(self.dropout)(x, deterministic=not train)
    # The last layer runs in the wide type: it costs nothing and its output goes into the loss.
    linear = nn.Dense(
      self.num_classes, dtype=self.param_dtype, param_dtype=self.param_dtype, name="linear"
    )
    return linear(x)


class Neck(Layer):
  """PST fuses stage 4 into stage 3; the result comes back down and meets stage 4 again.

  Layers 5 to 9 of the paper's networks (SPEC section 4).
  """

  features: int
  attention: dict
  kernel_init: Callable = pytorch_conv_init

  def setup(self):
    fields = {"kernel_init": self.kernel_init, **self.shared}
    self.pst = PST(self.features, **fields, **self.attention)
    self.down = ConvNorm(self.features, 3, 2, **fields)
    self.mix = ConvNorm(self.features, **fields)

  def __call__(self, x, upper, train):
    """Returns the output of PST, as large as `x`, and the map for the head, as large as `upper`."""
    fused = self.pst(x, upper, train)
    out = self.down(jnp.concatenate([fused, x], axis=-1), train)
    return fused, self.mix(jnp.concatenate([out, upper], axis=-1), train)


class Classifier(Layer):
  """An image classifier of the paper's or of torchvision's family.

  Attributes:
    num_classes: length of the logits.
    stage_sizes: blocks of each of the four stages.
    block: kind of residual block.
    neck_features: channels of the PST neck at width 1; None: no neck, no 1280-channel head either.
    family: `paper`: SiLU in the backbone, initialised as PyTorch's layers are; `torchvision`: ReLU,
      initialised as torchvision's ResNet is. It also decides the names that `convert` uses.
    top_k: coarse tokens that PST's fine branch opens; 0: coarse attention alone. Parameters do not
      depend on it.
    selection: rule that picks the tokens, see `pst_jax.ops.Selection`.
    coarse_implementation: one of `pst_jax.ops.COARSE_IMPLEMENTATIONS`.
    dropout: rate before the last layer; needs `rngs={"dropout": key}` in training.
    stem, width, remat: see `ResNet`; the width of PST is rounded to multiples of 32 channels.
  """

  num_classes: int
  stage_sizes: tuple[int, ...]
  block: Literal["basic", "bottleneck"]
  neck_features: int | None
  family: Literal["paper", "torchvision"]
  top_k: int = 0
  selection: ops.Selection = ops.select_top_k
  coarse_implementation: str = "einsum"
  dropout: float = 0.0
  stem: Literal["imagenet", "small"] = "imagenet"
  width: float = 1.0
  remat: bool = False

  def setup(self):
    self.backbone = ResNet(
      self.stage_sizes,
      self.block,
      *FAMILIES[self.family],
      stem=self.stem,
      width=self.width,
      remat=self.remat,
      **self.shared,
    )
    head_features = None
    if self.neck_features is not None:
      head_features = scale_width(HEAD_FEATURES, self.width)
      names = ("top_k", "selection", "coarse_implementation")
      attention = {name: getattr(self, name) for name in names}
      self.neck = Neck(scale_width(self.neck_features, self.width, 64), attention, **self.shared)
    self.head = Head(self.num_classes, head_features, self.dropout, **self.shared)

  def _maps(self, images, train):
    stages = self.backbone(images.astype(self.dtype), train)
    maps = {f"stage{i + 1}": stage for i, stage in enumerate(stages)}
    if self.neck_features is None:
      return maps, stages[-1]
    maps["pst"], last = self.neck(*stages[-2:], train)
    return maps, last

  def __call__(
    self, images: Float[Array, "batch height width 3"], train: bool = False
  ) -> Float[Array, "batch num_classes"]:
    """Logits in float32 (float64 if that is the dtype).

    Args:
      images: normalised images; any size from 32 pixels (small stem: 8), odd ones too.
      train: batch statistics and dropout; needs `mutable=["batch_stats"]`.

    Raises:
      ValueError: images too small, top_k beyond the coarse tokens, batch no multiple of group_size.
    """
    return self.head(self._maps(images, train)[1], train)

  def features(
    self, images: Float[Array, "batch height width 3"], train: bool = False
  ) -> dict[str, Float[Array, "batch h w c"]]:
    """Maps `stage1` to `stage4` and, with a neck, `pst`: `apply(..., method="features")`."""
    return self._maps(images, train)[0]
