"""ResNets with and without PST: the paper's classification networks and torchvision's."""

from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from pst_jax.architectures import HEAD_FEATURES, WHOLE_HEADS, scale_width
from pst_jax.layers import PST, ConvNorm
from pst_jax.layers.conv_norm import pytorch_conv_init
from pst_jax.layers.pst import PSTLayer
from pst_jax.models.heads.classify import Head
from pst_jax.models.network import Classifier
from pst_jax.models.resnet import ResNet
from pst_jax.ranges import FRACTION

# Activation and initial kernels of the backbone.
FAMILIES = {
  "paper": (jax.nn.silu, pytorch_conv_init),
  "torchvision": (jax.nn.relu, nn.initializers.variance_scaling(2.0, "fan_out", "normal")),
}


class Neck(PSTLayer):
  """PST fuses stage 4 into stage 3; the result comes back down and meets stage 4 again."""

  features: int
  kernel_init: Callable = pytorch_conv_init

  def setup(self):
    self.pst = self.make(PST, self.features)
    self.down = self.make(ConvNorm, self.features, 3, 2)
    self.mix = self.make(ConvNorm, self.features)

  def __call__(self, x, upper, train, positions=None):
    """Returns the output of PST, as large as `x`, and the map for the head, as large as `upper`."""
    fused = self.pst(x, upper, train, positions)
    out = self.down(jnp.concatenate([fused, x], axis=-1), train)
    return fused, self.mix(jnp.concatenate([out, upper], axis=-1), train)


class ResNetClassifier(Classifier):
  """An image classifier on a ResNet; see `Network` and `Classifier` for the options.

  `family` is `paper` (SiLU in the backbone, initialised as PyTorch's layers are) or `torchvision`
  (ReLU, initialised as torchvision's ResNet is).

  Attributes:
    stage_sizes: blocks of each of the four stages.
    block: kind of residual block.
    neck_features: channels of the PST neck at width 1; None: no neck, no 1280-channel head either.
    stochastic_depth: how often, in training, the last block is left out of an example (arXiv
      1603.09382), and those before it more seldom; needs `rngs={"dropout": key}`.
  """

  stage_sizes: tuple[int, ...]
  block: Literal["basic", "bottleneck"]
  neck_features: int | None
  stochastic_depth: Annotated[float, FRACTION] = 0.0

  def setup(self):
    activation, kernel_init = FAMILIES[self.family]
    backbone = (self.stage_sizes, self.block, activation)
    self.backbone = self.make(ResNet, *backbone, kernel_init=kernel_init)
    head_features = None
    if self.neck_features is not None:
      head_features = scale_width(HEAD_FEATURES, self.width)
      self.neck = self.make(Neck, scale_width(self.neck_features, self.width, WHOLE_HEADS))
    self.head = self.make(Head, self.num_classes, head_features, self.dropout)

  def maps(self, images, train, positions):
    stages = self.backbone(images, train, positions)
    maps = {f"stage{i + 1}": stage for i, stage in enumerate(stages)}
    if self.neck_features is None:
      return maps, stages[-1]
    maps["pst"], last = self.neck(*stages[-2:], train, positions)
    return maps, last
