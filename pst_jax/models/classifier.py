"""ResNets with and without PST: the paper's classification networks and torchvision's."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from pst_jax.layers import PST, ConvNorm
from pst_jax.layers.conv_norm import pytorch_conv_init
from pst_jax.layers.pst import PSTLayer
from pst_jax.models.network import HEAD_FEATURES, Head, Network, scale_width
from pst_jax.models.resnet import ResNet

# Activation and initial kernels of the backbone.
FAMILIES = {
  "paper": (jax.nn.silu, pytorch_conv_init),
  "torchvision": (jax.nn.relu, nn.initializers.variance_scaling(2.0, "fan_out", "normal")),
}


class Neck(PSTLayer):
  """PST fuses stage 4 into stage 3; the result comes back down and meets stage 4 again.

  Layers 5 to 9 of the paper's networks (SPEC section 4).
  """

  features: int
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


class ResNetClassifier(Network):
  """An image classifier on a ResNet; see `Network` for the options.

  `family` is `paper` (SiLU in the backbone, initialised as PyTorch's layers are) or `torchvision`
  (ReLU, initialised as torchvision's ResNet is).

  Attributes:
    stage_sizes: blocks of each of the four stages.
    block: kind of residual block.
    neck_features: channels of the PST neck at width 1; None: no neck, no 1280-channel head either.
  """

  stage_sizes: tuple[int, ...]
  block: Literal["basic", "bottleneck"]
  neck_features: int | None

  def setup(self):
    self.backbone = ResNet(
      self.stage_sizes,
      self.block,
      *FAMILIES[self.family],
      stem=self.stem,
      width=self.width,
      remat=self.remat,
      remat_policy=self.remat_policy,
      **self.shared,
    )
    head_features = None
    if self.neck_features is not None:
      head_features = scale_width(HEAD_FEATURES, self.width)
      # PST is half as wide inside and made of heads of 32 channels.
      features = scale_width(self.neck_features, self.width, 64)
      self.neck = Neck(features, **self.shared, **self.attention)
    self.head = Head(self.num_classes, head_features, self.dropout, **self.shared)

  def maps(self, images, train):
    stages = self.backbone(images, train)
    maps = {f"stage{i + 1}": stage for i, stage in enumerate(stages)}
    if self.neck_features is None:
      return maps, stages[-1]
    maps["pst"], last = self.neck(*stages[-2:], train)
    return maps, last
