"""The blocks of YOLO11 and YOLO12, NCHW; see `pst_jax.layers.csp`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_jax.torch.layers import ConvNorm, merge_heads, mlp, split_heads, start_narrow

AREA_HEAD_DIM = 32


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
  """Attention inside each of `area` equal runs of the rows, with a depthwise position term.

  Queries and keys have `key_dim` channels in each head; `kernel` is the side of the position term.
  """

  def __init__(self, channels: int, num_heads: int, key_dim: int, kernel: int, area: int = 1):
    super().__init__()
    self.num_heads = num_heads
    self.area = area
    self.widths = (key_dim, key_dim, channels // num_heads)
    self.qkv = ConvNorm(channels, channels + 2 * num_heads * key_dim, activation=None)
    self.proj = ConvNorm(channels, channels, activation=None)
    self.pe = ConvNorm(channels, channels, kernel, groups=channels, activation=None)

  def forward(self, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    qkv = split_heads(self.qkv(x), self.num_heads)
    v = qkv.split(self.widths, -1)[2]
    # The areas join the heads: the exporter to ONNX knows attention of four axes alone.
    runs = qkv.unflatten(2, (self.area, -1)).flatten(1, 2).split(self.widths, -1)
    out = F.scaled_dot_product_attention(*runs)
    out = out.unflatten(1, (self.num_heads, self.area)).flatten(2, 3)
    return self.proj(merge_heads(out, height, width) + self.pe(merge_heads(v, height, width)))


class PSABlock(nn.Module):
  """Attention and a feed-forward of two 1x1 ConvNorms, each with a residual."""

  def __init__(self, channels: int):
    super().__init__()
    num_heads = max(1, channels // 64)
    self.attn = Attention(channels, num_heads, channels // num_heads // 2, 3)
    self.ffn = mlp(channels, 2 * channels)

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


class ABlock(nn.Module):
  """Area attention and an MLP of two 1x1 ConvNorms, each with a residual."""

  def __init__(self, channels: int, area: int):
    super().__init__()
    self.attn = Attention(channels, channels // AREA_HEAD_DIM, AREA_HEAD_DIM, 7, area)
    self.mlp = mlp(channels, 2 * channels)
    start_narrow(self)

  def forward(self, x: Tensor) -> Tensor:
    x = x + self.attn(x)
    return x + self.mlp(x)


class A2C2f(nn.Module):
  """1x1 ConvNorm, then units one after the other; the results of all are concatenated and mixed.

  A unit is two ABlocks of `area` areas, or a C3k if `area` is None.
  """

  def __init__(self, c_in: int, c_out: int, units: int, area: int | None):
    super().__init__()
    hidden = c_out // 2
    self.cv1 = ConvNorm(c_in, hidden)
    self.cv2 = ConvNorm((1 + units) * hidden, c_out)
    self.m = nn.ModuleList(
      C3k(hidden) if area is None else nn.Sequential(ABlock(hidden, area), ABlock(hidden, area))
      for _ in range(units)
    )

  def forward(self, x: Tensor) -> Tensor:
    maps = [self.cv1(x)]
    for unit in self.m:
      maps.append(unit(maps[-1]))
    return self.cv2(torch.cat(maps, 1))


class SPPF(nn.Module):
  """Three max pools of 5x5 one after the other, beside the map itself."""

  def __init__(self, channels: int):
    super().__init__()
    self.cv1 = ConvNorm(channels, channels // 2)
    self.cv2 = ConvNorm(4 * (channels // 2), channels)

  def forward(self, x: Tensor) -> Tensor:
    maps = [self.cv1(x)]
    for _ in range(3):
      maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
    return self.cv2(torch.cat(maps, 1))
