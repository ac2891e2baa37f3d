"""Pyramid Sparse Transformer (arXiv 2505.12772, section 3): attention, block and module."""

import functools
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax import ops
from pst_jax.errors import UserError
from pst_jax.layers.base import AttentionLayer, Map, Positions
from pst_jax.layers.conv_norm import ConvNorm, block_init, pytorch_conv_init
from pst_jax.ranges import WHOLE_FROM_0

HEAD_DIM = 32
CoarseMap = Float[Array, "batch coarse_height coarse_width coarse_channels"]


class PSTLayer(AttentionLayer, kw_only=True):
  """Fields of the three modules below.

  Attributes:
    top_k: coarse tokens that the fine branch opens; 0: coarse attention alone. No parameter
      depends on it: `module.clone(top_k=8)` switches the branch on in a trained network.
    selection: rule that picks the tokens: a name of `pst_jax.ops.SELECTIONS`, "module:function", or
      a function, see `pst_jax.ops.Selection`. Its key comes from `rngs={"selection": key}`, with
      the position of each example folded in; without that it is None.
  """

  top_k: Annotated[int, WHOLE_FROM_0] = 0
  selection: str | ops.Selection = "top_k"


class PyramidSparseAttention(PSTLayer):
  """Queries of the fine map attend to the coarse map, then to children of its best tokens.

  With top_k = 0 the output is proj(O_coarse + P), else proj(g * O_fine + (1 - g) * O_coarse + P):
  P is the depthwise position term of the coarse values, g a learned gate (0.5 until it is trained).
  The kv projection is shared by both maps. In evaluation it is an affine map, so only the
  selected children are projected; in training it needs the batch statistics of the whole map.

  With `mutable=["intermediates"]` it hands out `queries`, `keys` and `values` (of the coarse map),
  for a rule that takes `Tokens` also `fine_keys` and `fine_values`, and with
  top_k > 0, `selected`: the coarse tokens that each head (or each query of it) opened; -1: none.
  """

  num_heads: int

  @nn.compact
  def __call__(
    self, x: Map, upper: CoarseMap, train: bool = False, positions: Positions | None = None
  ) -> Map:
    """Fuses `upper` into `x`.

    Args:
      x: the fine map.
      upper: the coarse map, half the size of `x` (rounded up), with the same channels.
      train: batch statistics in BatchNorm, and their running values move.
      positions: of the examples, for a random rule of selection; see `Positions`.

    Raises:
      UserError: sizes that are not neighbouring levels, top_k beyond the coarse tokens, channels
        that the heads do not divide, or a selection rule that returns anything but indices.
    """
    batch, height, width, channels = x.shape
    ops.check_pyramid(x.shape[1:3], upper.shape[1:3], self.top_k)
    if channels % self.num_heads:
      raise UserError(
        f"{channels} channels do not divide into {self.num_heads} heads: "
        "choose a number of heads that divides the channels"
      )
    dim = channels // self.num_heads
    linear = functools.partial(self.make, ConvNorm, activation=None, kernel_init=block_init)
    gate_kernel = self.param("gate_kernel", nn.initializers.zeros, (2 * dim, dim), self.param_dtype)
    gate_bias = self.param("gate_bias", nn.initializers.zeros, (dim,), self.param_dtype)
    project_kv = linear(2 * channels, name="kv")

    q = linear(channels, name="q")(x, train)
    q = q.reshape(batch, height * width, self.num_heads, dim)
    k, v = ops.split_heads(project_kv(upper, train), self.num_heads)
    self.sow("intermediates", "queries", q)
    self.sow("intermediates", "keys", k)
    self.sow("intermediates", "values", v)
    out = ops.coarse_attention(q, k, v, implementation=self.coarse_implementation)
    if self.top_k:
      fine = self._fine_branch(q, k, v, x, upper, project_kv, train, positions)
      out = ops.gated_fusion(out, fine, gate_kernel, gate_bias)

    value_map = v.reshape(*upper.shape[:3], channels)
    position = linear(channels, name="pe", kernel=7, depthwise=True)(value_map, train)
    out = out.reshape(x.shape) + ops.resize_bilinear(position, (height, width))
    return linear(channels, name="proj")(out, train)

  def _fine_branch(self, q, k, v, x, upper, project_kv, train, positions):
    rule, tokens = ops.find_selection(self.selection), None
    coarse, fine = upper.shape[1:3], x.shape[1:3]
    if whole := train or ops.takes_tokens(rule):
      k_fine, v_fine = ops.split_heads(project_kv(x, train), self.num_heads)
      tokens = ops.Tokens(q, k, v, k_fine, coarse, fine)
      self.sow("intermediates", "fine_keys", k_fine)
      self.sow("intermediates", "fine_values", v_fine)
    selected = self._select(rule, ops.token_scores(q, k), tokens, positions)
    self.sow("intermediates", "selected", selected)
    children, inside = ops.child_indices(selected, coarse, fine)
    if whole:
      k_fine = ops.gather_tokens(k_fine, children)
      v_fine = ops.gather_tokens(v_fine, children)
    else:
      rows = x.reshape(x.shape[0], -1, x.shape[-1]).astype(self.dtype)
      kv = ops.gather_and_project(rows, children, *project_kv.affine())
      k_fine, v_fine = jnp.split(kv, 2, axis=-1)
    return ops.fine_attention(q, k_fine, v_fine, inside)

  def _select(self, rule, scores, tokens, positions):
    if not self.has_rng("selection"):
      return ops.apply_selection(rule, scores, self.top_k, None, tokens)

    def of_one(scores, tokens, key):
      scores, tokens = jax.tree.map(lambda x: x[None], (scores, tokens))
      return ops.apply_selection(rule, scores, self.top_k, key, tokens)[0]

    positions = jnp.arange(scores.shape[0]) if positions is None else positions
    keys = jax.vmap(functools.partial(jax.random.fold_in, self.make_rng("selection")))(positions)
    return jax.vmap(of_one)(scores, tokens, keys)


class PSTBlock(PSTLayer):
  """X + PSA(X, U), then a residual MLP of two 1x1 ConvNorms."""

  num_heads: int
  mlp_ratio: float = 2.0

  @nn.compact
  def __call__(
    self, x: Map, upper: CoarseMap, train: bool = False, positions: Positions | None = None
  ) -> Map:
    """Arguments and errors as `PyramidSparseAttention`."""
    channels = x.shape[-1]
    attention = self.make(PyramidSparseAttention, self.num_heads, name="attn")
    x = x + attention(x, upper, train, positions)
    conv_norm = functools.partial(self.make, ConvNorm, kernel_init=block_init)
    hidden = conv_norm(int(channels * self.mlp_ratio), name="mlp0")(x, train)
    return x + conv_norm(channels, activation=None, name="mlp1")(hidden, train)


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
    self, x: Map, upper: CoarseMap, train: bool = False, positions: Positions | None = None
  ) -> Float[Array, "batch height width features"]:
    """Returns the fused map.

    Args:
      x: the fine map.
      upper: the coarse map, half the size of `x` (rounded up); its channels may differ.
      train, positions: as `PyramidSparseAttention`.

    Raises:
      UserError: as `PyramidSparseAttention`, and for an inner width that is no multiple of 32.
    """
    channels = int(self.features * self.expansion)
    if channels <= 0 or channels % HEAD_DIM:
      raise UserError(
        f"PST with features={self.features} and expansion={self.expansion} is {channels} channels "
        f"wide inside, which is no multiple of {HEAD_DIM}: choose them so that "
        f"features * expansion = {max(1, round(channels / HEAD_DIM)) * HEAD_DIM}"
      )
    maps = [self.make(ConvNorm, channels, name="cv1")(x, train)]
    upper = self.make(ConvNorm, channels, name="cvup")(upper, train)
    for i in range(self.num_blocks):
      block = self.make(PSTBlock, channels // HEAD_DIM, self.mlp_ratio, name=f"block{i}")
      maps.append(block(maps[-1], upper, train, positions))
    return self.make(ConvNorm, self.features, name="cv2")(jnp.concatenate(maps, axis=-1), train)
