"""The fields that every layer shares."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from pst_jax.ops.attention import accumulation_dtype

SHARED = ("dtype", "epsilon", "momentum", "group_size", "folded")


class Layer(nn.Module, kw_only=True):
  """Base of all modules here.

  Attributes:
    dtype: type of convolutions and matmuls; parameters and statistics are float32 or wider.
    epsilon: added to the variance in BatchNorm.
    momentum: share of the running statistics that a training step keeps.
    group_size: examples that share batch statistics; None: the whole batch.
    folded: BatchNorm is part of the convolutions, for inference alone; `pst_jax.fold_batch_norm`
      makes the variables for it.
  """

  dtype: Any = jnp.float32
  epsilon: float = 1e-5
  momentum: float = 0.9
  group_size: int | None = None
  folded: bool = False

  @property
  def param_dtype(self):
    return accumulation_dtype(self.dtype)

  @property
  def shared(self) -> dict:
    """The shared fields, to hand to a submodule."""
    return {name: getattr(self, name) for name in SHARED}
