"""Pure functions on arrays: every step of pyramid sparse attention, usable without a module."""

from pst_jax.ops.attention import (
  COARSE_IMPLEMENTATIONS,
  coarse_attention,
  fine_attention,
  gated_fusion,
  split_heads,
)
from pst_jax.ops.convolution import conv2d, max_pool
from pst_jax.ops.gather import gather_and_project, gather_tokens
from pst_jax.ops.resize import resize_bilinear
from pst_jax.ops.selection import (
  SELECTIONS,
  Selection,
  check_pyramid,
  child_indices,
  select_gumbel,
  select_random,
  select_top_k,
  token_scores,
)

__all__ = [
  "COARSE_IMPLEMENTATIONS",
  "SELECTIONS",
  "Selection",
  "check_pyramid",
  "child_indices",
  "coarse_attention",
  "conv2d",
  "fine_attention",
  "gated_fusion",
  "gather_and_project",
  "gather_tokens",
  "max_pool",
  "resize_bilinear",
  "select_gumbel",
  "select_random",
  "select_top_k",
  "split_heads",
  "token_scores",
]
