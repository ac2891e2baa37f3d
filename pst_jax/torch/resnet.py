"""ResNets with torchvision's entry names, alone and with PST between stages 3 and 4."""

import torch
from torch import Tensor, nn

from pst_jax.torch.layers import PST, ConvNorm
from pst_jax.torch.network import Classify, Network, scaled, scaled_pst


class Block(nn.Module):
  """A residual block of `convolutions` (c_in, c_out, kernel, stride), ReLU after each BatchNorm.

  Entries: conv1, bn1, conv2, bn2, ... and, where the shape changes, downsample.0 and .1.
  """

  def __init__(self, *convolutions: tuple[int, int, int, int]):
    super().__init__()
    self.depth = len(convolutions)
    for i, (c_in, c_out, kernel, stride) in enumerate(convolutions, 1):
      conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
      self.add_module(f"conv{i}", conv)
      self.add_module(f"bn{i}", nn.BatchNorm2d(c_out))
    c_in, c_out = convolutions[0][0], convolutions[-1][1]
    stride = max(stride for _, _, _, stride in convolutions)
    self.downsample = nn.Sequential()
    if stride != 1 or c_in != c_out:
      self.downsample.append(nn.Conv2d(c_in, c_out, 1, stride, bias=False))
      self.downsample.append(nn.BatchNorm2d(c_out))

  def forward(self, x: Tensor) -> Tensor:
    y = x
    for i in range(1, self.depth + 1):
      y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
      if i < self.depth:
        y = torch.relu(y)
    return torch.relu(y + self.downsample(x))


def basic(c_in: int, c_mid: int, c_out: int, stride: int) -> Block:
  return Block((c_in, c_mid, 3, stride), (c_mid, c_out, 3, 1))


def bottleneck(c_in: int, c_mid: int, c_out: int, stride: int) -> Block:
  return Block((c_in, c_mid, 1, 1), (c_mid, c_mid, 3, stride), (c_mid, c_out, 1, 1))


BLOCKS = {"basic": (basic, 1), "bottleneck": (bottleneck, 4)}
"""Kind -> (function that builds one, channels out / channels inside)."""

STEMS = {"imagenet": (7, 2, lambda: nn.MaxPool2d(3, 2, 1)), "small": (3, 1, nn.Identity)}
"""Stem -> (kernel, stride, pooling)."""


class Backbone(Network):
  """Stem and four stages, everything before torchvision's fc."""

  def __init__(self, kind: str, blocks: tuple[int, int, int, int], width: float, stem: str):
    super().__init__()
    kernel, stride, pooling = STEMS[stem]
    build, expansion = BLOCKS[kind]
    c_last = scaled(64, width)
    self.conv1 = nn.Conv2d(3, c_last, kernel, stride, kernel // 2, bias=False)
    self.bn1 = nn.BatchNorm2d(c_last)
    self.maxpool = pooling()
    self.stage_channels = []
    for i, count in enumerate(blocks):
      c_mid = scaled(64 << i, width)
      c_out = c_mid * expansion
      strides = [1 if i == 0 else 2] + [1] * (count - 1)
      inputs = [c_last] + [c_out] * (count - 1)
      stage = (build(c, c_mid, c_out, stride) for c, stride in zip(inputs, strides, strict=True))
      self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
      self.stage_channels.append(c_out)
      c_last = c_out
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
    stage3 = self.layer3(self.layer2(self.layer1(x)))
    return {"stage3": stage3, "stage4": self.layer4(stage3)}


class ResNet(Backbone):
  """torchvision's ResNet."""

  def __init__(
    self,
    kind: str,
    blocks: tuple[int, int, int, int],
    num_classes: int,
    width: float,
    stem: str,
    dropout: float,
  ):
    super().__init__(kind, blocks, width, stem)
    self.drop = nn.Dropout(dropout)
    self.fc = nn.Linear(self.stage_channels[-1], num_classes)

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    return self.fc(self.drop(features["stage4"].mean((2, 3))))


class ResNetPST(Backbone):
  """A torchvision backbone with PST(stage 3, stage 4) and the head of the paper's networks."""

  def __init__(
    self,
    kind: str,
    blocks: tuple[int, int, int, int],
    pst_channels: int,
    num_classes: int,
    width: float,
    stem: str,
    dropout: float,
  ):
    super().__init__(kind, blocks, width, stem)
    c3, c4 = self.stage_channels[2:]
    c_pst = scaled_pst(pst_channels, width)
    self.pst = PST(c3, c4, c_pst)
    self.down = ConvNorm(c_pst + c3, c_pst, 3, 2)
    self.mix = ConvNorm(c_pst + c4, c_pst)
    self.head = Classify(c_pst, scaled(1280, width), num_classes, dropout)

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    features = super().forward_features(images)
    return features | {"pst": self.pst(features["stage3"], features["stage4"])}

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    x = self.down(torch.cat((features["pst"], features["stage3"]), 1))
    return self.head(self.mix(torch.cat((x, features["stage4"]), 1)))
