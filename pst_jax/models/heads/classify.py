"""The head of the classifiers."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax.layers import ConvNorm, Layer
from pst_jax.layers.base import Map, Positions
from pst_jax.layers.conv_norm import pytorch_conv_init
from pst_jax.layers.dropping import drop


class Head(Layer):
  """ConvNorm 1x1 to `features` (None: none), mean over the map, dropout, linear layer."""

  num_classes: int
  features: int | None
  dropout: float
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(
    self, x: Map, train: bool, positions: Positions | None = None
  ) -> Float[Array, "batch num_classes"]:
    if self.features is not None:
      x = self.make(ConvNorm, self.features, name="conv")(x, train)
    x = jnp.mean(x, axis=(1, 2), dtype=self.param_dtype)
    if train and self.dropout:
      x = drop(x, self.dropout, self.make_rng("dropout"), positions)
    # The last layer runs in the wide type: it costs nothing and its output goes into the loss.
    linear = nn.Dense(
      self.num_classes, dtype=self.param_dtype, param_dtype=self.param_dtype, name="linear"
    )
    return linear(x)
