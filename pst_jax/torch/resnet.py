"""ResNets with torchvision's entry names, alone and with PST between stages 3 and 4."""

import torch
from torch import Tensor, nn

from pst_jax.architectures import WHOLE_HEADS, scale_width
from pst_jax.torch.layers import PST, ConvNorm
from pst_jax.torch.network import Classifier, Classify, Options, residual_blocks

EXPANSION = {"basic": 1, "bottleneck": 4}
"""Kind of block -> channels out / channels inside."""


class Block(nn.Module):
  """Convolutions, 3x3 twice or (bottleneck) 1x1, 3x3, 1x1, with a residual; ReLU after each norm.

  Entries: conv1, bn1, conv2, bn2, ... and, where the shape changes, downsample.0 and .1.
  """

  def __init__(self, kind: str, c_in: int, c_mid: int, c_out: int, stride: int):
    super().__init__()
    layers = [(c_in, c_mid, 3, stride), (c_mid, c_out, 3, 1)]
    if kind == "bottleneck":
      layers = [(c_in, c_mid, 1, 1), (c_mid, c_mid, 3, stride), (c_mid, c_out, 1, 1)]
    self.depth = len(layers)
    for i, (before, after, kernel, step) in enumerate(layers, 1):
      conv = nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False)
      self.add_module(f"conv{i}", conv)
      self.add_module(f"bn{i}", nn.BatchNorm2d(after))
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


STEMS = {"imagenet": (7, 2, lambda: nn.MaxPool2d(3, 2, 1)), "small": (3, 1, nn.Identity)}
"""Stem -> (kernel, stride, pooling)."""


class ResNet(Classifier):
  """torchvision's ResNet; with `pst_channels` PST(stage 3, stage 4) and the paper's head on it."""

  def __init__(
    self, blocks: tuple[int, ...], kind: str, pst_channels: int | None, options: Options
  ):
    super().__init__()
    kernel, stride, pooling = STEMS[options.stem]
    stages = residual_blocks(blocks, options.width, EXPANSION[kind])
    c_stem, (c3, c4) = stages[0][0][0], (stage[-1][2] for stage in stages[2:])
    self.conv1 = nn.Conv2d(3, c_stem, kernel, stride, kernel // 2, bias=False)
    self.bn1 = nn.BatchNorm2d(c_stem)
    self.maxpool = pooling()
    for i, stage in enumerate(stages, 1):
      self.add_module(f"layer{i}", nn.Sequential(*(Block(kind, *fields) for fields in stage)))
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    self.has_pst = pst_channels is not None
    if self.has_pst:
      c_pst = scale_width(pst_channels, options.width, WHOLE_HEADS)
      self.pst = PST(c3, c4, c_pst)
      self.down = ConvNorm(c_pst + c3, c_pst, 3, 2)
      self.mix = ConvNorm(c_pst + c4, c_pst)
      self.head = Classify(c_pst, options)
    else:
      self.drop = nn.Dropout(options.dropout)
      self.fc = nn.Linear(c4, options.num_classes)

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
    stage3 = self.layer3(self.layer2(self.layer1(x)))
    features = {"stage3": stage3, "stage4": self.layer4(stage3)}
    if self.has_pst:
      features["pst"] = self.pst(stage3, features["stage4"])
    return features

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    if not self.has_pst:
      return self.fc(self.drop(features["stage4"].mean((2, 3))))
    x = self.down(torch.cat((features["pst"], features["stage3"]), 1))
    return self.head(self.mix(torch.cat((x, features["stage4"]), 1)))
