"""Rematerialisation: what a stage keeps for its backward pass, and what it computes again."""

import jax
from flax import linen as nn

from pst_jax.layers.conv_norm import CONVOLUTION

REMAT_POLICIES = {
  # Least memory, and every convolution is computed twice.
  "nothing": jax.checkpoint_policies.nothing_saveable,
  # BatchNorm and activations are computed again: they cost next to nothing, but their results take
  # as much memory, and as long to write and read, as the convolutions' own.
  "convolutions": jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
}


def stage_class(stage: type[nn.Module], network: nn.Module) -> type[nn.Module]:
  """`stage`, whose call takes (x, train), as `remat` and `remat_policy` of the network ask."""
  if not network.remat:
    return stage
  return nn.remat(stage, static_argnums=(2,), policy=REMAT_POLICIES[network.remat_policy])
