"""What the networks share: their options, the classifiers' head and the base classes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pst_jax.architectures import HEAD_FEATURES, STAGE_FEATURES, scale_width
from pst_jax.torch.layers import ConvNorm, set_top_k


class Options(NamedTuple):
  """The options of `create_model` that change a network's layers; detectors keep the last two."""

  num_classes: int
  width: float = 1.0
  stem: str = "imagenet"
  dropout: float = 0.0


def residual_blocks(
  blocks: Sequence[int], width: float, expansion: int
) -> list[list[tuple[int, int, int, int]]]:
  """For every stage of a ResNet (c_in, c_mid, c_out, stride) of its blocks; c_out / c_mid is given.

  The stem has as many channels as the first stage inside.
  """
  c_in, stages = scale_width(STAGE_FEATURES[0], width), []
  for i, count in enumerate(blocks):
    c_mid = scale_width(STAGE_FEATURES[i], width)
    c_out = c_mid * expansion
    first = (c_in, c_mid, c_out, 1 if i == 0 else 2)
    stages.append([first] + [(c_out, c_mid, c_out, 1)] * (count - 1))
    c_in = c_out
  return stages


class Classify(nn.Module):
  """ConvNorm 1x1 to 1280 channels, mean over positions, dropout, linear to the classes."""

  def __init__(self, c_in: int, options: Options):
    super().__init__()
    hidden = scale_width(HEAD_FEATURES, options.width)
    self.conv = ConvNorm(c_in, hidden)
    self.drop = nn.Dropout(options.dropout)
    self.linear = nn.Linear(hidden, options.num_classes)

  def forward(self, x: Tensor) -> Tensor:
    """[B, c_in, H, W] -> logits [B, num_classes]."""
    return self.linear(self.drop(self.conv(x).mean((2, 3))))


class Network(nn.Module):
  """Base of the networks, which take images [B, 3, H, W]."""

  def set_top_k(self, top_k: int) -> "Network":
    """Opens the fine branch on `top_k` coarse tokens, or closes it with 0; returns the network."""
    return set_top_k(self, top_k)


class Classifier(Network):
  """A classifier of images [B, 3, H, W] -> logits [B, num_classes]."""

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    """Maps "stage3" (stride 16), "stage4" (stride 32) and, with PST, "pst" (stride 16)."""
    raise NotImplementedError

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    """Logits from the result of `forward_features`."""
    raise NotImplementedError

  def forward(self, images: Tensor) -> Tensor:
    return self.forward_head(self.forward_features(images))


class Numbered(Network):
  """A network whose layers have the numbers of the checkpoints.

  Numbers that are left out own nothing: upsampling, concatenation.
  """

  def __init__(self, layers: dict[str, nn.Module]):
    super().__init__()
    self.model = nn.ModuleDict(layers)

  def run(self, x: Tensor, first: int, last: int) -> Tensor:
    """Layers `first` to `last`, one after the other."""
    for number in range(first, last + 1):
      x = self.model[str(number)](x)
    return x


class NumberedClassifier(Numbered, Classifier):
  """Stage 3 ends with the layer `stage3`; stage 4, PST, a strided layer and a mix follow."""

  def __init__(self, layers: dict[str, nn.Module], stage3: int):
    super().__init__(layers)
    self.stage3 = stage3

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    stage3 = self.run(images, 0, self.stage3)
    stage4 = self.run(stage3, self.stage3 + 1, self.stage3 + 1)
    pst = self.model[str(self.stage3 + 2)](stage3, stage4)
    return {"stage3": stage3, "stage4": stage4, "pst": pst}

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    down, mix = self.stage3 + 4, self.stage3 + 6
    x = self.run(torch.cat((features["pst"], features["stage3"]), 1), down, down)
    return self.run(torch.cat((x, features["stage4"]), 1), mix, max(map(int, self.model)))
