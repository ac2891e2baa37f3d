"""What is left out of a network at random while it is trained."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from pst_jax.layers.base import Positions


def drop(
  x: Float[Array, "batch ..."],
  rate: float,
  key: PRNGKeyArray,
  positions: Positions | None = None,
  *,
  whole: bool = False,
) -> Float[Array, "batch ..."]:
  """Zeros a share `rate` of `x` at random and scales the rest, so that the mean stays.

  What is dropped of an example depends on the key and its position alone.

  Args:
    rate: below 1.
    positions: see `Positions`.
    whole: an example stays or goes as a whole (stochastic depth, Huang et al., arXiv 1603.09382),
      not each number by itself (dropout, Srivastava et al., 2014).
  """
  positions = jnp.arange(x.shape[0]) if positions is None else positions
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
  shape = (1,) * (x.ndim - 1) if whole else x.shape[1:]
  keep = jax.vmap(lambda each: jax.random.bernoulli(each, 1 - rate, shape))(keys)
  return jnp.where(keep, x / (1 - rate), 0)
