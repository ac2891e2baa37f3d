"""YOLO11 classification networks with PST: yolo11n-cls-pst, yolo11s-cls-pst, yolo11m-cls-pst."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_jax.torch.layers import PST, ConvNorm, merge_heads, split_heads
from pst_jax.torch.network import Classify, Network, scaled, scaled_pst


class Bottleneck(nn.Module):
  """Two 3x3 ConvNorms with `expansion` * channels between them, added to the input."""

  def __init__(self, channels: int, expansion: float):
    super().__init__()
    hidden = int(channels * expansion)
    self.cv1 = ConvNorm(channels, hidden, 3)
    self.cv2 = ConvNorm(hidden, channels, 3)

  def forward(self, x: Tensor) -> Tensor:
    return x + self.cv2(self.cv1(x))


class C3k(nn.Module):
  """Two Bottlenecks beside a 1x1 ConvNorm, concatenated and mixed."""

  def __init__(self, channels: int):
    super().__init__()
    hidden = channels // 2
    self.cv1 = ConvNorm(channels, hidden)
    self.cv2 = ConvNorm(channels, hidden)
    self.cv3 = ConvNorm(2 * hidden, channels)
    self.m = nn.Sequential(*(Bottleneck(hidden, 1.0) for _ in range(2)))

  def forward(self, x: Tensor) -> Tensor:
    return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3k2(nn.Module):
  """1x1 ConvNorm split in halves, one unit on the second half, all three concatenated and mixed.

  The unit is a C3k if `c3k`, else a Bottleneck.
  """

  def __init__(self, c_in: int, c_out: int, c3k: bool, expansion: float = 0.5):
    super().__init__()
    hidden = int(c_out * expansion)
    self.cv1 = ConvNorm(c_in, 2 * hidden)
    self.cv2 = ConvNorm(3 * hidden, c_out)
    self.m = nn.ModuleList([C3k(hidden) if c3k else Bottleneck(hidden, 0.5)])

  def forward(self, x: Tensor) -> Tensor:
    first, second = self.cv1(x).chunk(2, 1)
    return self.cv2(torch.cat((first, second, self.m[0](second)), 1))


class Attention(nn.Module):
  """Attention over all positions, keys half as wide as values, with a depthwise position term."""

  def __init__(self, channels: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    self.head_dim = channels // num_heads
    self.key_dim = self.head_dim // 2
    self.qkv = ConvNorm(channels, channels + 2 * num_heads * self.key_dim, activation=None)
    self.proj = ConvNorm(channels, channels, activation=None)
    self.pe = ConvNorm(channels, channels, 3, groups=channels, activation=None)

  def forward(self, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    widths = (self.key_dim, self.key_dim, self.head_dim)
    q, k, v = split_heads(self.qkv(x), self.num_heads).split(widths, -1)
    out = merge_heads(F.scaled_dot_product_attention(q, k, v), height, width)
    return self.proj(out + self.pe(merge_heads(v, height, width)))


class PSABlock(nn.Module):
  """Attention and a feed-forward of two 1x1 ConvNorms, each with a residual."""

  def __init__(self, channels: int):
    super().__init__()
    self.attn = Attention(channels, max(1, channels // 64))
    self.ffn = nn.Sequential(
      ConvNorm(channels, 2 * channels), ConvNorm(2 * channels, channels, activation=None)
    )

  def forward(self, x: Tensor) -> Tensor:
    x = x + self.attn(x)
    return x + self.ffn(x)


class C2PSA(nn.Module):
  """1x1 ConvNorm split in halves, a PSABlock on the second, both concatenated and mixed."""

  def __init__(self, channels: int):
    super().__init__()
    hidden = channels // 2
    self.cv1 = ConvNorm(channels, 2 * hidden)
    self.cv2 = ConvNorm(2 * hidden, channels)
    self.m = nn.Sequential(PSABlock(hidden))

  def forward(self, x: Tensor) -> Tensor:
    first, second = self.cv1(x).chunk(2, 1)
    return self.cv2(torch.cat((first, self.m(second)), 1))


class Yolo11(Network):
  """The three sizes of the network; their depth of 0.5 makes every repeat one.

  Args:
    scale: multiplies the channels 64, 128, 256, 512, 1024.
    max_channels: channels are cut to this before that.
    always_c3k: C3k units in every C3k2, not in the deep ones alone.
    num_classes: number of classes.
    width: as in `create_model`.
    stem: "imagenet", or "small": stride 1 in the first two layers.
    dropout: rate before the last layer.
  """

  def __init__(
    self,
    scale: float,
    max_channels: int,
    always_c3k: bool,
    num_classes: int,
    width: float,
    stem: str,
    dropout: float,
  ):
    super().__init__()
    c1, c2, c3, c4, c5 = (
      scaled(math.ceil(min(c, max_channels) * scale / 8) * 8, width)
      for c in (64, 128, 256, 512, 1024)
    )
    c5 = scaled_pst(c5, 1.0)
    stride = {"imagenet": 2, "small": 1}[stem]
    layers = {
      "0": ConvNorm(3, c1, 3, stride),
      "1": ConvNorm(c1, c2, 3, stride),
      "2": C3k2(c2, c3, always_c3k, 0.25),
      "3": ConvNorm(c3, c3, 3, 2),
      "4": C3k2(c3, c4, always_c3k, 0.25),
      "5": ConvNorm(c4, c4, 3, 2),
      "6": C3k2(c4, c4, True),
      "7": ConvNorm(c4, c5, 3, 2),
      "8": PST(c4, c5, c5),
      "10": ConvNorm(c5 + c4, c5, 3, 2),
      "12": C3k2(2 * c5, c5, True),
      "13": C2PSA(c5),
      "14": Classify(c5, scaled(1280, width), num_classes, dropout),
    }
    self.model = nn.ModuleDict(layers)  # 9 and 11 are concatenations, which own nothing

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    x = images
    for i in ("0", "1", "2", "3", "4", "5"):
      x = self.model[i](x)
    stage3 = self.model["6"](x)
    stage4 = self.model["7"](stage3)
    return {"stage3": stage3, "stage4": stage4, "pst": self.model["8"](stage3, stage4)}

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    x = self.model["10"](torch.cat((features["pst"], features["stage3"]), 1))
    x = self.model["12"](torch.cat((x, features["stage4"]), 1))
    return self.model["14"](self.model["13"](x))
