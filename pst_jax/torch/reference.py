"""The paper's classification networks in the layout of the authors' checkpoints: r18, r50, r101.

All three are bottleneck networks with SiLU inside the blocks; "r18" has blocks [2, 2, 2, 2].
"""

import torch
from torch import Tensor, nn

from pst_jax.torch.layers import PST, ConvNorm
from pst_jax.torch.network import Classify, Network, scaled, scaled_pst


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


class ReferenceNetwork(Network):
  """r18-cls-pst, r50-cls-pst and r101-cls-pst, by their blocks per stage and PST channels."""

  def __init__(
    self,
    blocks: tuple[int, int, int, int],
    pst_channels: int,
    num_classes: int,
    width: float,
    stem: str,
    dropout: float,
  ):
    super().__init__()
    layers: dict[str, nn.Module] = {}
    c_last = scaled(64, width)
    layers["0"] = STEMS[stem](c_last)
    stage_channels = []
    for i, count in enumerate(blocks):
      c_mid = scaled(64 << i, width)
      c_out = 4 * c_mid
      strides = [1 if i == 0 else 2] + [1] * (count - 1)
      inputs = [c_last] + [c_out] * (count - 1)
      layers[f"{i + 1}"] = Stage(
        *(Bottleneck(c, c_mid, c_out, stride) for c, stride in zip(inputs, strides, strict=True))
      )
      stage_channels.append(c_out)
      c_last = c_out
    c3, c4 = stage_channels[2:]
    c_pst = scaled_pst(pst_channels, width)
    layers["5"] = PST(c3, c4, c_pst)
    layers["7"] = ConvNorm(c_pst + c3, c_pst, 3, 2)
    layers["9"] = ConvNorm(c_pst + c4, c_pst)
    layers["10"] = Classify(c_pst, scaled(1280, width), num_classes, dropout)
    self.model = nn.ModuleDict(layers)  # 6 and 8 are concatenations, which own nothing

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    x = images
    for i in ("0", "1", "2"):
      x = self.model[i](x)
    stage3 = self.model["3"](x)
    stage4 = self.model["4"](stage3)
    return {"stage3": stage3, "stage4": stage4, "pst": self.model["5"](stage3, stage4)}

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    x = self.model["7"](torch.cat((features["pst"], features["stage3"]), 1))
    x = self.model["9"](torch.cat((x, features["stage4"]), 1))
    return self.model["10"](x)
