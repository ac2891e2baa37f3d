"""YOLO11 detectors, with PST (yolo11n-pst, ...) and, as their controls, without (yolo11n, ...)."""

from pst_jax.architectures import WHOLE_HEADS, Yolo11Size, scale_width
from pst_jax.layers import ConvNorm
from pst_jax.layers.csp import C2PSA, SPPF, AreaStage, Stage
from pst_jax.models.detector import Detector, Neck
from pst_jax.models.heads.detect import Detect
from pst_jax.models.network import stage_class


class Yolo11Detector(Detector):
  """The three sizes; their depth of 0.5 halves every repeat of the layer table, 1 at least.

  Attributes:
    size: which of them.
    with_pst: PST in the neck and area attention in the backbone; else the plain YOLO11.
  """

  size: Yolo11Size
  with_pst: bool

  def setup(self):
    c1, c2, c3, c4, c5 = self.size.features(self.width)
    if self.with_pst:
      c3, c4, c5 = (scale_width(c, 1.0, WHOLE_HEADS) for c in (c3, c4, c5))
    stage = stage_class(Stage, self)
    self.stem_conv = self.make(ConvNorm, c1, 3, 2, of_image=True)
    self.stage1 = self.make(stage, c2, 2, c3, self.size.always_c3k, 0.25)
    self.stage2 = self.make(stage, c3, 2, c4, self.size.always_c3k, 0.25)
    if self.with_pst:
      area_stage = stage_class(AreaStage, self)
      self.stage3 = self.make(area_stage, c4, c4, 4)
      self.stage4 = self.make(area_stage, c5, c5, 1)
    else:
      self.stage3 = self.make(stage, c4, 2, c4, True, 0.5)
      self.stage4 = self.make(stage, c5, 2, c5, True, 0.5)
      self.pool = self.make(SPPF)
      self.self_attention = self.make(C2PSA)
    self.neck = self.make(Neck, (c3, c4, c5), self.with_pst, self.size.always_c3k)
    self.head = self.make(Detect, self.num_classes)

  def pyramid(self, images, train):
    x = self.stage1(self.stem_conv(images, train), train)
    p3 = self.stage2(x, train)
    p4 = self.stage3(p3, train)
    p5 = self.stage4(p4, train)
    if not self.with_pst:
      p5 = self.self_attention(self.pool(p5, train), train)
    return p3, p4, p5
