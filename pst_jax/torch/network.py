"""What the classification networks share: the rule for narrow ones, the head and the base class."""

from torch import Tensor, nn

from pst_jax.torch.layers import ConvNorm, set_top_k


def scaled(channels: int, width: float) -> int:
  """`channels` times `width`, rounded to a multiple of 8."""
  return max(8, round(channels * width / 8) * 8)


def scaled_pst(channels: int, width: float) -> int:
  """`channels` times `width`, rounded to a multiple of 64: half of it makes whole heads of 32."""
  return max(64, round(channels * width / 64) * 64)


class Classify(nn.Module):
  """ConvNorm 1x1 to `hidden` channels, mean over positions, dropout, linear to `num_classes`."""

  def __init__(self, c_in: int, hidden: int, num_classes: int, dropout: float = 0.0):
    super().__init__()
    self.conv = ConvNorm(c_in, hidden)
    self.drop = nn.Dropout(dropout)
    self.linear = nn.Linear(hidden, num_classes)

  def forward(self, x: Tensor) -> Tensor:
    """[B, c_in, H, W] -> logits [B, num_classes]."""
    return self.linear(self.drop(self.conv(x).mean((2, 3))))


class Network(nn.Module):
  """A classifier of images [B, 3, H, W] -> logits [B, num_classes]."""

  def forward_features(self, images: Tensor) -> dict[str, Tensor]:
    """Maps "stage3" (stride 16), "stage4" (stride 32) and, with PST, "pst" (stride 16)."""
    raise NotImplementedError

  def forward_head(self, features: dict[str, Tensor]) -> Tensor:
    """Logits from the result of `forward_features`."""
    raise NotImplementedError

  def forward(self, images: Tensor) -> Tensor:
    return self.forward_head(self.forward_features(images))

  def set_top_k(self, top_k: int) -> "Network":
    """Opens the fine branch on `top_k` coarse tokens, or closes it with 0; returns the network."""
    return set_top_k(self, top_k)
