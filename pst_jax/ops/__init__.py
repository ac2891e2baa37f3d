"""Pure functions on arrays: every step of pyramid sparse attention, usable without a module."""

from pst_jax.ops.attention import (
  COARSE_IMPLEMENTATIONS,
  coarse_attention,
  fine_attention,
  gated_fusion,
  split_heads,
)
from pst_jax.ops.convolution import conv2d, conv2d_of_blocks, max_filter, max_pool
from pst_jax.ops.gather import gather_and_project, gather_tokens
from pst_jax.ops.resize import double_nearest, resize_bilinear
from pst_jax.ops.rule_check import check_selection
from pst_jax.ops.rules import (
  SELECTIONS,
  Selection,
  Tokens,
  apply_selection,
  find_selection,
  fine_attention_mass,
  select_entropy,
  select_gumbel,
  select_mass,
  select_norm,
  select_oracle,
  select_per_query,
  select_random,
  select_spread,
  takes_tokens,
)
from pst_jax.ops.selection import check_pyramid, child_indices, select_top_k, token_scores

__all__ = [
  "COARSE_IMPLEMENTATIONS",
  "SELECTIONS",
  "Selection",
  "Tokens",
  "apply_selection",
  "check_pyramid",
  "check_selection",
  "child_indices",
  "coarse_attention",
  "conv2d",
  "conv2d_of_blocks",
  "double_nearest",
  "find_selection",
  "fine_attention",
  "fine_attention_mass",
  "gated_fusion",
  "gather_and_project",
  "gather_tokens",
  "max_filter",
  "max_pool",
  "resize_bilinear",
  "select_entropy",
  "select_gumbel",
  "select_mass",
  "select_norm",
  "select_oracle",
  "select_per_query",
  "select_random",
  "select_spread",
  "select_top_k",
  "split_heads",
  "takes_tokens",
  "token_scores",
]
