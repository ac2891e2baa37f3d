"""The detectors, with the entry names of the authors' and of YOLO11's checkpoints."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_jax.architectures import WHOLE_HEADS, Yolo11Size, scale_width
from pst_jax.errors import UserError
from pst_jax.torch.classifiers import backbone, early_layers
from pst_jax.torch.csp import C2PSA, SPPF, A2C2f, C3k2
from pst_jax.torch.layers import PST, ConvNorm
from pst_jax.torch.network import Numbered, Options

STRIDES, BINS = (8, 16, 32), 16
EPSILON, MOMENTUM = 1e-3, 0.03


class Distances(nn.Module):
  """The mean of every side's 16 bins: a 1x1 convolution whose kernel is the numbers 0 to 15."""

  def __init__(self):
    super().__init__()
    self.conv = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
    self.conv.weight.data[:] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)

  def forward(self, sides: Tensor) -> Tensor:
    """Logits [B, 4 * 16, A] -> distances in strides [B, 4, A]."""
    bins = sides.unflatten(1, (4, BINS)).transpose(1, 2).softmax(1)
    return self.conv(bins).squeeze(1)


class Detect(nn.Module):
  """Raw maps [B, 64 + num_classes, H / s, W / s] at the strides s = 8, 16, 32."""

  def __init__(self, channels: Sequence[int], num_classes: int):
    super().__init__()
    c_box = max(16, channels[0] // 4, 4 * BINS)
    c_class = max(channels[0], min(num_classes, 100))
    self.cv2 = nn.ModuleList(
      nn.Sequential(ConvNorm(c, c_box, 3), ConvNorm(c_box, c_box, 3), nn.Conv2d(c_box, 4 * BINS, 1))
      for c in channels
    )
    self.cv3 = nn.ModuleList(
      nn.Sequential(
        nn.Sequential(ConvNorm(c, c, 3, groups=c), ConvNorm(c, c_class)),
        nn.Sequential(ConvNorm(c_class, c_class, 3, groups=c_class), ConvNorm(c_class, c_class)),
        nn.Conv2d(c_class, num_classes, 1),
      )
      for c in channels
    )
    self.dfl = Distances()
    for box, classes, stride in zip(self.cv2, self.cv3, STRIDES, strict=True):
      nn.init.ones_(box[-1].bias)
      nn.init.constant_(classes[-1].bias, math.log(5 / num_classes / (640 / stride) ** 2))

  def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
    branches = zip(maps, self.cv2, self.cv3, strict=True)
    return tuple(torch.cat((box(x), classes(x)), 1) for x, box, classes in branches)

  def decode(self, maps: Sequence[Tensor]) -> Tensor:
    """[B, 4 + num_classes, A]: cx, cy, w, h in pixels of the input, then the scores."""
    points, strides = [], []
    for each, stride in zip(maps, STRIDES, strict=True):
      rows, columns = (torch.arange(size, device=each.device) + 0.5 for size in each.shape[2:])
      y, x = torch.meshgrid(rows, columns, indexing="ij")
      points.append(torch.stack((x, y)).flatten(1))
      strides.append(torch.full_like(points[-1][:1], stride))
    points, strides = torch.cat(points, 1), torch.cat(strides, 1)
    joined = torch.cat([each.flatten(2) for each in maps], 2)
    near, far = self.dfl(joined[:, : 4 * BINS]).chunk(2, 1)
    boxes = torch.cat((points + (far - near) / 2, near + far), 1) * strides
    return torch.cat((boxes, joined[:, 4 * BINS :].sigmoid()), 1)


class Detector(Numbered):
  """A detector of images [B, 3, H, W] in 0..1, H and W multiples of 32 -> three raw maps.

  `pyramid` are the numbers of the layers that the backbone's maps at strides 8, 16, 32 come from.
  The last seven layers are two that fuse, a strided one and a mixing one, twice, and `Detect`.
  """

  def __init__(self, layers: dict[str, nn.Module], pyramid: Sequence[int]):
    super().__init__(layers)
    self.pyramid = pyramid
    self.neck = list(layers)[-7:]
    for module in self.modules():
      if isinstance(module, nn.BatchNorm2d):
        module.eps, module.momentum = EPSILON, MOMENTUM

  def forward(self, images: Tensor) -> tuple[Tensor, ...]:
    height, width = images.shape[2:]
    if height % 32 or width % 32:
      raise UserError(
        f"images of {height}x{width} pixels were given, but a detector takes sides that are "
        "multiples of 32: letterbox them to such a size"
      )
    x, first, maps = images, 0, []
    for last in self.pyramid:
      x = self.run(x, first, last)
      first = last + 1
      maps.append(x)
    p3, p4, p5 = maps
    fuse4, fuse3, down3, mix4, down4, mix5, detect = (self.model[number] for number in self.neck)
    fused4 = _fuse(fuse4, p4, p5, p5)
    fused3 = _fuse(fuse3, p3, fused4, p4)
    out4 = mix4(torch.cat((down3(fused3), fused4), 1))
    out5 = mix5(torch.cat((down4(out4), p5), 1))
    return detect((fused3, out4, out5))

  def decode(self, maps: Sequence[Tensor]) -> Tensor:
    """Raw maps as [B, 4 + num_classes, A]: cx, cy, w, h in pixels, then the scores in 0..1."""
    return self.model[self.neck[-1]].decode(maps)


def _fuse(layer: nn.Module, x: Tensor, coarse: Tensor, upper: Tensor) -> Tensor:
  x = torch.cat((F.interpolate(coarse, scale_factor=2.0, mode="nearest"), x), 1)
  return layer(x, upper) if isinstance(layer, PST) else layer(x)


def _pst_neck(first: int, channels: Sequence[int], neck: Sequence[int], num_classes: int) -> dict:
  """The layers of a neck with PST; `channels` are those of the pyramid, `neck` of the results."""
  (p3, p4, p5), (c3, c4, c5) = channels, neck
  return {
    f"{first}": PST(p5 + p4, p5, c4),
    f"{first + 3}": PST(c4 + p3, p4, c3),
    f"{first + 4}": ConvNorm(c3, c3, 3, 2),
    f"{first + 6}": A2C2f(c3 + c4, c4, 1, None),
    f"{first + 7}": ConvNorm(c4, c4, 3, 2),
    f"{first + 9}": C3k2(c4 + p5, c5, True),
    f"{first + 10}": Detect(neck, num_classes),
  }


class ReferenceDetector(Detector):
  """r18-pst, r50-pst and r101-pst, by their blocks per stage and the channels at stride 32."""

  def __init__(self, blocks: tuple[int, ...], channels: int, options: Options):
    layers, stages = backbone(blocks, options)
    neck = [scale_width(channels >> i, options.width, WHOLE_HEADS) for i in (2, 1, 0)]
    layers["5"] = ConvNorm(stages[3], neck[2])
    layers["6"] = A2C2f(neck[2], neck[2], 2, 1)
    layers |= _pst_neck(9, (stages[1], stages[2], neck[2]), neck, options.num_classes)
    super().__init__(layers, (2, 3, 6))


class Yolo11PSTDetector(Detector):
  """yolo11n-pst, yolo11s-pst and yolo11m-pst; the arguments are those of `Yolo11`."""

  def __init__(self, size: Yolo11Size, options: Options):
    c1, c2, *rest = size.features(options.width)
    c3, c4, c5 = (scale_width(c, 1.0, WHOLE_HEADS) for c in rest)
    layers = {
      **early_layers(size, c1, c2, c3, c4),
      "6": A2C2f(c4, c4, 2, 4),
      "7": ConvNorm(c4, c5, 3, 2),
      "8": A2C2f(c5, c5, 2, 1),
      **_pst_neck(11, (c4, c4, c5), (c3, c4, c5), options.num_classes),
    }
    super().__init__(layers, (4, 6, 8))


class Yolo11Detector(Detector):
  """The plain YOLO11 detectors: yolo11n, yolo11s and yolo11m, with the arguments of `Yolo11`."""

  def __init__(self, size: Yolo11Size, options: Options):
    c1, c2, c3, c4, c5 = size.features(options.width)
    layers = {
      **early_layers(size, c1, c2, c3, c4),
      "6": C3k2(c4, c4, True),
      "7": ConvNorm(c4, c5, 3, 2),
      "8": C3k2(c5, c5, True),
      "9": SPPF(c5),
      "10": C2PSA(c5),
      "13": C3k2(c5 + c4, c4, size.always_c3k),
      "16": C3k2(c4 + c4, c3, size.always_c3k),
      "17": ConvNorm(c3, c3, 3, 2),
      "19": C3k2(c3 + c4, c4, size.always_c3k),
      "20": ConvNorm(c4, c4, 3, 2),
      "22": C3k2(c4 + c5, c5, True),
      "23": Detect((c3, c4, c5), options.num_classes),
    }
    super().__init__(layers, (4, 6, 10))
