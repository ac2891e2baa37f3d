"""The paper's ResNet detectors with PST: r18-pst, r50-pst, r101-pst."""

import jax

from pst_jax.architectures import WHOLE_HEADS, scale_width
from pst_jax.layers import ConvNorm
from pst_jax.layers.conv_norm import pytorch_conv_init
from pst_jax.layers.csp import A2C2f
from pst_jax.models.detector import Detector, Neck
from pst_jax.models.heads.detect import Detect
from pst_jax.models.resnet import ResNet


class ResNetDetector(Detector):
  """A detector on the paper's ResNet of bottleneck blocks with SiLU.

  Attributes:
    stage_sizes: blocks of each of the four stages.
    neck_features: channels of the neck's results at width 1, of the finest first.
  """

  stage_sizes: tuple[int, ...]
  neck_features: tuple[int, int, int]

  def setup(self):
    features = tuple(scale_width(c, self.width, WHOLE_HEADS) for c in self.neck_features)
    backbone = (self.stage_sizes, "bottleneck", jax.nn.silu)
    self.backbone = self.make(ResNet, *backbone, kernel_init=pytorch_conv_init)
    self.reduce = self.make(ConvNorm, features[-1])
    self.attend = self.make(A2C2f, features[-1], 2, 1)
    self.neck = self.make(Neck, features, True)
    self.head = self.make(Detect, self.num_classes)

  def pyramid(self, images, train):
    _, p3, p4, p5 = self.backbone(images, train)
    return p3, p4, self.attend(self.reduce(p5, train), train)
