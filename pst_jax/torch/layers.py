"""PST's layers as `torch.nn.Module`s, NCHW; entry names are those of the authors' checkpoints.

Source of every formula: "Pyramid Sparse Transformer", arXiv 2505.12772.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_jax.errors import UserError


class ConvNorm(nn.Module):
  """Convolution without bias, BatchNorm, then `activation` (SiLU unless said otherwise).

  Args:
    kernel: side of the kernel; the padding is kernel // 2 on every side.
    activation: module applied last, or None.
    epsilon: added to the variance.
    momentum: share of the new batch in the running statistics (PyTorch's sense; Flax's is 1 - it).
  """

  def __init__(
    self,
    c_in: int,
    c_out: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.SiLU,
    epsilon: float = 1e-5,
    momentum: float = 0.1,
  ):
    super().__init__()
    self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    self.bn = nn.BatchNorm2d(c_out, eps=epsilon, momentum=momentum)
    self.act = nn.Identity() if activation is None else activation()

  def forward(self, x: Tensor) -> Tensor:
    """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
    return self.act(self.bn(self.conv(x)))


def mlp(channels: int, hidden: int, **norm: float) -> nn.Sequential:
  """Two 1x1 ConvNorms, the second without activation."""
  return nn.Sequential(
    ConvNorm(channels, hidden, **norm), ConvNorm(hidden, channels, activation=None, **norm)
  )


def start_narrow(block: nn.Module) -> None:
  """Initialises the convolutions of an attention block as the authors do."""
  for module in block.modules():
    if isinstance(module, nn.Conv2d):
      nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)


def split_heads(x: Tensor, heads: int) -> Tensor:
  """[B, heads * d, H, W] -> [B, heads, H * W, d]."""
  return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def merge_heads(x: Tensor, height: int, width: int) -> Tensor:
  """[B, heads, height * width, d] -> [B, heads * d, height, width]."""
  return x.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))


def select_tokens(q: Tensor, k: Tensor, top_k: int) -> Tensor:
  """The coarse tokens that the queries score highest on average, as `ops.token_scores` has them.

  From queries [B, heads, N, d] and coarse keys [B, heads, M, d] the indices [B, heads, top_k].
  """
  scores = (q.mean(2, keepdim=True) @ k.transpose(2, 3)).squeeze(2)
  return scores.topk(top_k).indices


def child_indices(
  selected: Tensor, height: int, width: int, coarse_width: int
) -> tuple[Tensor, Tensor]:
  """Fine tokens (2r + 0|1, 2c + 0|1) under each selected coarse token (r, c).

  From coarse tokens in row order [B, heads, k] the indices of fine tokens [B, heads, 4k], clamped
  to the map, and a mask of the same shape that is True where the child lies on the map.
  """
  right = torch.tensor([0, 1, 0, 1], device=selected.device)
  below = torch.tensor([0, 0, 1, 1], device=selected.device)
  token = selected.unsqueeze(-1)
  row = (2 * torch.div(token, coarse_width, rounding_mode="floor") + below).flatten(2)
  column = (2 * (token % coarse_width) + right).flatten(2)
  inside = (row < height) & (column < width)
  return row.clamp(max=height - 1) * width + column.clamp(max=width - 1), inside


class PyramidSparseAttention(nn.Module):
  """Queries of a fine map attend to a coarse map and, if top_k > 0, to the best tokens' children.

  Args:
    channels: channels of both maps and of the output, a multiple of num_heads.
    num_heads: attention heads; the models use channels // 32.
    top_k: coarse tokens opened by the fine branch; 0 is coarse attention alone. An attribute:
      change it at any time, the parameters are the same.
    norm: epsilon and momentum, as in ConvNorm.

  Raises:
    UserError: num_heads does not divide channels; at the call, the maps are not 2:1 or top_k is
      greater than the number of coarse tokens.
  """

  def __init__(self, channels: int, num_heads: int, top_k: int = 0, **norm: float):
    super().__init__()
    if channels % num_heads:
      raise UserError(
        f"{channels} channels cannot be split into {num_heads} heads; "
        "choose a number of heads that divides the channels"
      )
    self.num_heads = num_heads
    self.top_k = top_k
    linear = {"activation": None, **norm}
    self.q = ConvNorm(channels, channels, **linear)
    self.kv = ConvNorm(channels, 2 * channels, **linear)
    self.proj = ConvNorm(channels, channels, **linear)
    self.pe = ConvNorm(channels, channels, 7, groups=channels, **linear)
    dim = channels // num_heads
    self.gate_conv1d = nn.Conv1d(2 * dim, dim, 1)
    nn.init.zeros_(self.gate_conv1d.weight)
    nn.init.zeros_(self.gate_conv1d.bias)

  def forward(self, x: Tensor, upper: Tensor) -> Tensor:
    """x [B, C, H, W], upper [B, C, ceil(H/2), ceil(W/2)] -> [B, C, H, W]."""
    (height, width), (coarse_height, coarse_width) = x.shape[2:], upper.shape[2:]
    if (coarse_height, coarse_width) != ((height + 1) // 2, (width + 1) // 2):
      raise UserError(
        f"the upper map is {coarse_height}x{coarse_width} and the fine map {height}x{width}; "
        f"pass an upper map of {(height + 1) // 2}x{(width + 1) // 2}, half the size rounded up"
      )
    q = split_heads(self.q(x), self.num_heads)
    k, v = split_heads(self.kv(upper), self.num_heads).chunk(2, -1)
    out = F.scaled_dot_product_attention(q, k, v)
    if self.top_k > 0:
      out = self._gate(self._fine(x, q, k, coarse_width), out)
    position = F.interpolate(
      self.pe(merge_heads(v, coarse_height, coarse_width)),
      size=(height, width),
      mode="bilinear",
      align_corners=False,
    )
    return self.proj(merge_heads(out, height, width) + position)

  def _fine(self, x: Tensor, q: Tensor, k: Tensor, coarse_width: int) -> Tensor:
    """Attention of every query to the children of the selected tokens, [B, heads, N, d]."""
    height, width = x.shape[2:]
    if self.top_k > k.shape[2]:
      raise UserError(
        f"top_k is {self.top_k} but the upper map has only {k.shape[2]} tokens; "
        f"use top_k <= {k.shape[2]} or larger images"
      )
    selected = select_tokens(q, k, self.top_k)
    index, inside = child_indices(selected, height, width, coarse_width)
    kv = split_heads(self.kv(x), self.num_heads)
    index = index.unsqueeze(-1).expand(-1, -1, -1, kv.shape[-1])
    k_child, v_child = kv.gather(2, index).chunk(2, -1)
    past_border = height % 2 or width % 2
    mask = inside.unsqueeze(2) if past_border else None
    return F.scaled_dot_product_attention(q, k_child, v_child, attn_mask=mask)

  def _gate(self, fine: Tensor, coarse: Tensor) -> Tensor:
    """g * fine + (1 - g) * coarse, g from both by one linear map that all heads share."""
    both = torch.cat((coarse, fine), -1).flatten(0, 1).transpose(1, 2)
    g = self.gate_conv1d(both).sigmoid().transpose(1, 2).unflatten(0, coarse.shape[:2])
    return g * fine + (1 - g) * coarse


class PSTBlock(nn.Module):
  """Pyramid sparse attention and an MLP of two 1x1 ConvNorms, each with a residual; see `PST`."""

  def __init__(
    self, channels: int, num_heads: int, mlp_ratio: float = 2.0, top_k: int = 0, **norm: float
  ):
    super().__init__()
    self.attn = PyramidSparseAttention(channels, num_heads, top_k, **norm)
    self.mlp = mlp(channels, int(channels * mlp_ratio), **norm)
    start_narrow(self)

  def forward(self, x: Tensor, upper: Tensor) -> Tensor:
    """x [B, C, H, W], upper [B, C, ceil(H/2), ceil(W/2)] -> [B, C, H, W]."""
    x = x + self.attn(x, upper)
    return x + self.mlp(x)


class PST(nn.Module):
  """Pyramid Sparse Transformer: fuses a coarse map into the fine map below it.

  Args:
    c_fine, c_coarse, c_out: channels of the two maps and of the output.
    num_blocks: PSTBlocks, called attnlayer_0, attnlayer_1, ...
    mlp_ratio, expansion: as `pst_jax.layers.PST` has them.
    top_k, norm: as in PyramidSparseAttention.

  Raises:
    UserError: the channels inside are no multiple of 32; see also PyramidSparseAttention.
  """

  def __init__(
    self,
    c_fine: int,
    c_coarse: int,
    c_out: int,
    num_blocks: int = 1,
    mlp_ratio: float = 2.0,
    expansion: float = 0.5,
    top_k: int = 0,
    **norm: float,
  ):
    super().__init__()
    channels = int(c_out * expansion)
    if channels < 32 or channels % 32:
      raise UserError(
        f"PST has {channels} channels inside (c_out {c_out} x expansion {expansion}); "
        "choose them so that int(c_out * expansion) is a multiple of 32, one head for each 32"
      )
    self.num_blocks = num_blocks
    self.cv1 = ConvNorm(c_fine, channels, **norm)
    self.cvup = ConvNorm(c_coarse, channels, **norm)
    self.cv2 = ConvNorm((num_blocks + 1) * channels, c_out, **norm)
    for i in range(num_blocks):
      block = PSTBlock(channels, channels // 32, mlp_ratio, top_k, **norm)
      self.add_module(f"attnlayer_{i}", block)

  def forward(self, x: Tensor, upper: Tensor) -> Tensor:
    """x [B, c_fine, H, W], upper [B, c_coarse, ceil(H/2), ceil(W/2)] -> [B, c_out, H, W]."""
    upper = self.cvup(upper)
    maps = [self.cv1(x)]
    for i in range(self.num_blocks):
      maps.append(getattr(self, f"attnlayer_{i}")(maps[-1], upper))
    return self.cv2(torch.cat(maps, 1))


def set_top_k(model: nn.Module, top_k: int) -> nn.Module:
  """Sets top_k of every PyramidSparseAttention inside `model`, in place; returns the model."""
  for module in model.modules():
    if isinstance(module, PyramidSparseAttention):
      module.top_k = top_k
  return model
