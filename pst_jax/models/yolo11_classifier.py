"""YOLO11 classification networks with PST: yolo11n-cls-pst, yolo11s-cls-pst, yolo11m-cls-pst."""

import jax.numpy as jnp

from pst_jax.architectures import HEAD_FEATURES, WHOLE_HEADS, Yolo11Size, scale_width
from pst_jax.layers import PST, ConvNorm
from pst_jax.layers.csp import C2PSA, C3k2, Stage
from pst_jax.models.heads.classify import Head
from pst_jax.models.network import Classifier, stage_class


class Yolo11Classifier(Classifier):
  """The three sizes; their depth of 0.5 makes every repeat of the layer table one.

  Attributes:
    size: which of them.
  """

  size: Yolo11Size

  def setup(self):
    c1, c2, c3, c4, c5 = self.size.features(self.width)
    c5 = scale_width(c5, 1.0, WHOLE_HEADS)
    early = 2 if self.stem == "imagenet" else 1
    stage = stage_class(Stage, self)
    self.stem_conv = self.make(ConvNorm, c1, 3, early, of_image=True)
    self.stage1 = self.make(stage, c2, early, c3, self.size.always_c3k, 0.25)
    self.stage2 = self.make(stage, c3, 2, c4, self.size.always_c3k, 0.25)
    self.stage3 = self.make(stage, c4, 2, c4, True, 0.5)
    self.stage4 = self.make(ConvNorm, c5, 3, 2)
    self.pst = self.make(PST, c5)
    self.down = self.make(ConvNorm, c5, 3, 2)
    self.mix = self.make(C3k2, c5, True)
    self.self_attention = self.make(C2PSA)
    features = scale_width(HEAD_FEATURES, self.width)
    self.head = self.make(Head, self.num_classes, features, self.dropout)

  def maps(self, images, train, positions):
    x, maps = self.stem_conv(images, train), {}
    for name in ("stage1", "stage2", "stage3", "stage4"):
      maps[name] = x = getattr(self, name)(x, train)
    maps["pst"] = self.pst(maps["stage3"], maps["stage4"], train, positions)
    x = self.down(jnp.concatenate([maps["pst"], maps["stage3"]], axis=-1), train)
    x = self.mix(jnp.concatenate([x, maps["stage4"]], axis=-1), train)
    return maps, self.self_attention(x, train)
