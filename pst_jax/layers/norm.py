"""BatchNorm with statistics over the whole batch or over groups of examples."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from pst_jax.errors import UserError
from pst_jax.layers.base import Layer, Map

# The name of the statistics of a batch for policies of rematerialisation.
STATISTICS = "statistics"


class BatchNorm(Layer):
  """Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) with PyTorch's running statistics.

  In training the statistics are those of `group_size` consecutive examples. Groups that lie on one
  device need no communication; `group_size=None` takes the whole (global) batch. The running
  statistics move by `1 - momentum` towards the mean over groups of the batch mean and of the
  UNBIASED batch variance, as PyTorch's do; Flax's own layer uses the biased one.

  Raises:
    UserError: in training, when the batch is no multiple of `group_size`.
  """

  @nn.compact
  def __call__(self, x: Map, train: bool) -> Map:
    channels, dtype = x.shape[-1:], self.param_dtype
    scale = self.param("scale", nn.initializers.ones, channels, dtype)
    bias = self.param("bias", nn.initializers.zeros, channels, dtype)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, dtype)
    running_var = self.variable("batch_stats", "var", jnp.ones, channels, dtype)
    if not train:
      return _normalize(x, running_mean.value, running_var.value, scale, bias, self.epsilon)

    groups = self._split(x)
    mean, var, count = _statistics(groups, dtype)
    if not self.is_initializing():
      self._update(running_mean, mean)
      self._update(running_var, var * (count / max(count - 1, 1)))
    per_group = jax.vmap(_normalize, in_axes=(0, 0, 0, None, None, None))
    return per_group(groups, mean, var, scale, bias, self.epsilon).reshape(x.shape)

  def _split(self, x):
    size = self.group_size or x.shape[0]
    if x.shape[0] % size:
      raise UserError(
        f"BatchNorm groups of {size} examples do not divide a batch of {x.shape[0]}: "
        "choose a batch size that is a multiple of the group size"
      )
    return x.reshape(x.shape[0] // size, size, *x.shape[1:])

  def _update(self, running, statistic):
    batch_value = jax.lax.stop_gradient(jnp.mean(statistic, axis=0))
    running.value = self.momentum * running.value + (1 - self.momentum) * batch_value


def _statistics(groups, dtype):
  """Mean and biased variance [groups, channels] in one pass, and the count behind them."""
  axes = tuple(range(1, groups.ndim - 1))
  wide = groups.astype(dtype)
  mean = jnp.mean(wide, axis=axes)
  var = jnp.maximum(jnp.mean(jnp.square(wide), axis=axes) - jnp.square(mean), 0)
  mean, var = (checkpoint_name(each, STATISTICS) for each in (mean, var))
  return mean, var, groups[0].size // groups.shape[-1]


def _normalize(x, mean, var, scale, bias, epsilon):
  factor = scale * jax.lax.rsqrt(var + epsilon)
  return (x * factor + (bias - mean * factor)).astype(x.dtype)
