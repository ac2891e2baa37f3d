"""Pyramid Sparse Transformer (arXiv 2505.12772, section 3): attention, block and module."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.layers.base import Layer
from pst_jax.layers.conv_norm import ConvNorm, pytorch_conv_init

HEAD_DIM = 32

# Every convolution of a block starts from this; nn.initializers cuts at +-2 standard deviations,
# the authors at +-2, which a standard deviation of 0.02 never reaches.
block_init = nn.initializers.normal(0.02)


class PSTLayer(Layer, kw_only=True):
  """Fields of the three modules below.

  Attributes:
    top_k: coarse tokens that the fine branch opens; 0: coarse attention alone. No parameter
      depends on it: `module.clone(top_k=8)` switches the branch on in a trained network.
    selection: rule that picks the tokens, see `pst_jax.ops.Selection`. Its key comes from
      `rngs={"selection": key}`; without that it is None and the result is deterministic.
    coarse_implementation: one of `pst_jax.ops.COARSE_IMPLEMENTATIONS`.
  """

  top_k: int = 0
  selection: ops.Selection = ops.select_top_k
  coarse_implementation: str = "einsum"

  @property
  def attention(self) -> dict:
    """The fields above, to hand to a submodule."""
    return {name: getattr(self, name) for name in ("top_k", "selection", "coarse_implementation")}

  def conv_norm(self, features: int, name: str, **fields) -> ConvNorm:
    return ConvNorm(features, name=name, **self.shared, **fields)


class PyramidSparseAttention(PSTLayer):
  """Queries of the fine map attend to the coarse map, then to children of its best tokens.

  With top_k = 0 the output is proj(O_coarse + P), else proj(g * O_fine + (1 - g) * O_coarse + P):
  P is the depthwise position term of the coarse values, g a learned gate (0.5 until it is trained).
  The kv projection is shared by both maps. In evaluation it is an affine map, so only the
  selected children are projected; in training it needs the batch statistics of the whole map.

  With `mutable=["intermediates"]` it hands out `queries`, `keys` (of the coarse map) and, with
  top_k > 0, `selected`: the coarse tokens that each head opened.
  """

  num_heads: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    upper: Float[Array, "batch coarse_height coarse_width channels"],
    train: bool = False,
  ) -> Float[Array, "batch height width channels"]:
    """Fuses `upper` into `x`.

    Args:
      x: the fine map.
      upper: the coarse map, half the size of `x` (rounded up), with the same channels.
      train: batch statistics in BatchNorm, and their running values move.

    Raises:
      ValueError: sizes that are not neighbouring levels, top_k beyond the coarse tokens, channels
        that the heads do not divide, or a selection rule that returns anything but indices.
    """
    batch, height, width, channels = x.shape
    ops.check_pyramid(x.shape[1:3], upper.shape[1:3], self.top_k)
    if channels % self.num_heads:
      raise ValueError(
        f"{channels} channels do not divide into {self.num_heads} heads: "
        "choose a number of heads that divides the channels"
      )
    dim = channels // self.num_heads
    linear = {"activation": None, "kernel_init": block_init}
    gate_kernel = self.param("gate_kernel", nn.initializers.zeros, (2 * dim, dim), self.param_dtype)
    gate_bias = self.param("gate_bias", nn.initializers.zeros, (dim,), self.param_dtype)
    project_kv = self.conv_norm(2 * channels, "kv", **linear)

    q = self.conv_norm(channels, "q", **linear)(x, train)
    q = q.reshape(batch, height * width, self.num_heads, dim)
    k, v = ops.split_heads(project_kv(upper, train), self.num_heads)
    self.sow("intermediates", "queries", q)
    self.sow("intermediates", "keys", k)
    out = ops.coarse_attention(q, k, v, implementation=self.coarse_implementation)
    if self.top_k:
      fine = self._fine_branch(q, k, x, upper, project_kv, train)
      out = ops.gated_fusion(out, fine, gate_kernel, gate_bias)

    value_map = v.reshape(*upper.shape[:3], channels)
    position = self.conv_norm(channels, "pe", kernel=7, depthwise=True, **linear)(value_map, train)
    out = out.reshape(x.shape) + ops.resize_bilinear(position, (height, width))
    return self.conv_norm(channels, "proj", **linear)(out, train)

  def _fine_branch(self, q, k, x, upper, project_kv, train):
    key = self.make_rng("selection") if self.has_rng("selection") else None
    selected = self.selection(ops.token_scores(q, k), self.top_k, key)
    _check_selected(selected, (*k.shape[0:3:2], self.top_k))
    self.sow("intermediates", "selected", selected)
    children, inside = ops.child_indices(selected, upper.shape[1:3], x.shape[1:3])
    if train:
      k_fine, v_fine = ops.split_heads(project_kv(x, train), self.num_heads)
      k_fine = ops.gather_tokens(k_fine, children)
      v_fine = ops.gather_tokens(v_fine, children)
    else:
      rows = x.reshape(x.shape[0], -1, x.shape[-1]).astype(self.dtype)
      kv = ops.gather_and_project(rows, children, *project_kv.affine())
      k_fine, v_fine = jnp.split(kv, 2, axis=-1)
    return ops.fine_attention(q, k_fine, v_fine, inside)


def _check_selected(selected, shape):
  """Raises ValueError unless a selection rule returned what `ops.Selection` says."""
  is_array = hasattr(selected, "dtype")
  if is_array and selected.shape == shape and jnp.issubdtype(selected.dtype, jnp.integer):
    return
  got = jax.typeof(selected) if is_array else f"a {type(selected).__name__}"
  expected = ",".join(map(str, shape))
  raise ValueError(
    f"the selection rule returned {got}, but it must return the indices of the tokens, as "
    f"int[{expected}]: batch, heads, top_k"
  )


class PSTBlock(PSTLayer):
  """X + PSA(X, U), then a residual MLP of two 1x1 ConvNorms."""

  num_heads: int
  mlp_ratio: float = 2.0

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    upper: Float[Array, "batch coarse_height coarse_width channels"],
    train: bool = False,
  ) -> Float[Array, "batch height width channels"]:
    """Arguments and errors as `PyramidSparseAttention`."""
    channels = x.shape[-1]
    x = x + PyramidSparseAttention(self.num_heads, name="attn", **self.shared, **self.attention)(
      x, upper, train
    )
    hidden = self.conv_norm(int(channels * self.mlp_ratio), "mlp0", kernel_init=block_init)
    out = self.conv_norm(channels, "mlp1", kernel_init=block_init, activation=None)
    return x + out(hidden(x, train), train)


class PST(PSTLayer):
  """Fuses two neighbouring levels of a feature pyramid into one map of the finer size.

  Attributes:
    features: channels of the result.
    num_blocks: PSTBlocks in a row; every one attends to the same coarse map.
    mlp_ratio: hidden channels of a block's MLP, as a multiple of its channels.
    expansion: channels inside the module, as a share of `features`; a multiple of 32.
  """

  features: int
  num_blocks: int = 1
  mlp_ratio: float = 2.0
  expansion: float = 0.5
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    upper: Float[Array, "batch coarse_height coarse_width upper_channels"],
    train: bool = False,
  ) -> Float[Array, "batch height width features"]:
    """Returns the fused map.

    Args:
      x: the fine map.
      upper: the coarse map, half the size of `x` (rounded up); its channels may differ.
      train: batch statistics in BatchNorm, and their running values move.

    Raises:
      ValueError: as `PyramidSparseAttention`, and for an inner width that is no multiple of 32.
    """
    channels = int(self.features * self.expansion)
    if channels <= 0 or channels % HEAD_DIM:
      raise ValueError(
        f"PST with features={self.features} and expansion={self.expansion} is {channels} channels "
        f"wide inside, which is no multiple of {HEAD_DIM}: choose them so that "
        f"features * expansion = {max(1, round(channels / HEAD_DIM)) * HEAD_DIM}"
      )
    init = {"kernel_init": self.kernel_init}
    maps = [self.conv_norm(channels, "cv1", **init)(x, train)]
    upper = self.conv_norm(channels, "cvup", **init)(upper, train)
    for i in range(self.num_blocks):
      block = PSTBlock(
        channels // HEAD_DIM, self.mlp_ratio, name=f"block{i}", **self.shared, **self.attention
      )
      maps.append(block(maps[-1], upper, train))
    return self.conv_norm(self.features, "cv2", **init)(jnp.concatenate(maps, axis=-1), train)
