"""The classification networks in the layout of the authors' checkpoints, and their backbones.

The paper's r18, r50 and r101 are bottleneck networks with SiLU inside the blocks; "r18" has blocks
[2, 2, 2, 2].
"""

import torch
from torch import Tensor, nn

from pst_jax.architectures import WHOLE_HEADS, Yolo11Size, scale_width
from pst_jax.torch.csp import C2PSA, C3k2
from pst_jax.torch.layers import PST, ConvNorm
from pst_jax.torch.network import Classify, NumberedClassifier, Options, residual_blocks


class Bottleneck(nn.Module):
  """1x1, 3x3 (strided) and 1x1 ConvNorms, added to the shortcut, ReLU."""

  def __init__(self, c_in: int, c_mid: int, c_out: int, stride: int):
    super().__init__()
    self.cv1 = ConvNorm(c_in, c_mid)
    self.cv2 = ConvNorm(c_mid, c_mid, 3, stride)
    self.cv3 = ConvNorm(c_mid, c_out, activation=None)
    self.shortcut = nn.Sequential()
    if stride != 1 or c_in != c_out:
      self.shortcut.append(ConvNorm(c_in, c_out, stride=stride, activation=None))

  def forward(self, x: Tensor) -> Tensor:
    return torch.relu(self.cv3(self.cv2(self.cv1(x))) + self.shortcut(x))


class Stage(nn.Module):
  """Modules in sequence, called layer.0, layer.1, ... in the checkpoints."""

  def __init__(self, *modules: nn.Module):
    super().__init__()
    self.layer = nn.Sequential(*modules)

  def forward(self, x: Tensor) -> Tensor:
    return self.layer(x)


STEMS = {
  "imagenet": lambda c_out: Stage(ConvNorm(3, c_out, 7, 2), nn.MaxPool2d(3, 2, 1)),
  "small": lambda c_out: Stage(ConvNorm(3, c_out, 3, 1)),
}


def backbone(blocks: tuple[int, ...], options: Options) -> tuple[dict[str, nn.Module], list[int]]:
  """Layers "0" (the stem) to "4" (the last stage), and the channels of the four stages."""
  stages = residual_blocks(blocks, options.width, 4)
  layers: dict[str, nn.Module] = {"0": STEMS[options.stem](stages[0][0][0])}
  for i, stage in enumerate(stages, 1):
    layers[f"{i}"] = Stage(*(Bottleneck(*fields) for fields in stage))
  return layers, [stage[-1][2] for stage in stages]


class ReferenceNetwork(NumberedClassifier):
  """r18-cls-pst, r50-cls-pst and r101-cls-pst, by their blocks per stage and PST channels."""

  def __init__(self, blocks: tuple[int, ...], pst_channels: int, options: Options):
    layers, (*_, c3, c4) = backbone(blocks, options)
    c_pst = scale_width(pst_channels, options.width, WHOLE_HEADS)
    layers["5"] = PST(c3, c4, c_pst)
    layers["7"] = ConvNorm(c_pst + c3, c_pst, 3, 2)
    layers["9"] = ConvNorm(c_pst + c4, c_pst)
    layers["10"] = Classify(c_pst, options)
    super().__init__(layers, stage3=3)


def early_layers(
  size: Yolo11Size, c1: int, c2: int, c3: int, c4: int, stride: int = 2
) -> dict[str, nn.Module]:
  """Layers "0" to "5"; `stride` is that of the first two."""
  return {
    "0": ConvNorm(3, c1, 3, stride),
    "1": ConvNorm(c1, c2, 3, stride),
    "2": C3k2(c2, c3, size.always_c3k, 0.25),
    "3": ConvNorm(c3, c3, 3, 2),
    "4": C3k2(c3, c4, size.always_c3k, 0.25),
    "5": ConvNorm(c4, c4, 3, 2),
  }


class Yolo11(NumberedClassifier):
  """yolo11n-cls-pst, yolo11s-cls-pst, yolo11m-cls-pst; their depth of 0.5 makes every repeat one.

  The stem "small" has stride 1 in the first two layers.
  """

  def __init__(self, size: Yolo11Size, options: Options):
    c1, c2, c3, c4, c5 = size.features(options.width)
    c5 = scale_width(c5, 1.0, WHOLE_HEADS)
    stride = {"imagenet": 2, "small": 1}[options.stem]
    layers = {
      **early_layers(size, c1, c2, c3, c4, stride),
      "6": C3k2(c4, c4, True),
      "7": ConvNorm(c4, c5, 3, 2),
      "8": PST(c4, c5, c5),
      "10": ConvNorm(c5 + c4, c5, 3, 2),
      "12": C3k2(2 * c5, c5, True),
      "13": C2PSA(c5),
      "14": Classify(c5, options),
    }
    super().__init__(layers, stage3=6)
