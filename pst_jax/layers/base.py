"""The fields that every layer shares, and how a layer hands them to those inside it."""

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pst_jax.ops.attention import COARSE_IMPLEMENTATIONS, accumulation_dtype
from pst_jax.ranges import (
  ABOVE_0,
  FLOATING,
  FRACTION,
  TRUE_OR_FALSE,
  WHOLE_FROM_1_OR_NONE,
  one_of,
)

Map = Float[Array, "batch height width channels"]
Positions = Int[Array, "batch"]
"""Of examples in the batch that they are a part of, so that what is random does the same for a
batch in parts as for the whole; where they are None: 0, 1, ..."""


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

  dtype: Annotated[Any, FLOATING] = jnp.float32
  epsilon: Annotated[float, ABOVE_0] = 1e-5
  momentum: Annotated[float, FRACTION] = 0.9
  group_size: Annotated[int | None, WHOLE_FROM_1_OR_NONE] = None
  folded: Annotated[bool, TRUE_OR_FALSE] = False

  @property
  def param_dtype(self):
    return accumulation_dtype(self.dtype)

  @nn.nowrap
  def make(self, layer: type["Layer"], *args, **fields) -> "Layer":
    """A layer inside this one, with the options of this one that it has too.

    Options are the fields `dtype`, `group_size`, `top_k` and the like (`INHERITED`): an option that
    stands in two layers means the same in both.

    Args:
      layer: the class.
      *args: its own fields, in order.
      **fields: its own fields by name, and options that differ from this layer's.
    """
    theirs = {field.name for field in dataclasses.fields(layer)} & INHERITED
    ours = {field.name for field in dataclasses.fields(self)}
    return layer(*args, **{name: getattr(self, name) for name in theirs & ours} | fields)


class AttentionLayer(Layer, kw_only=True):
  """Base of the layers that hold attention over whole maps.

  Attributes:
    coarse_implementation: one of `pst_jax.ops.COARSE_IMPLEMENTATIONS`.
  """

  coarse_implementation: Annotated[str, one_of(COARSE_IMPLEMENTATIONS)] = "auto"


INHERITED = frozenset(
  (
    *("dtype", "epsilon", "momentum", "group_size", "folded"),
    *("top_k", "selection", "coarse_implementation"),
    *("kernel_init", "width", "stem", "stochastic_depth", "remat", "remat_policy"),
  )
)
