"""Scores of coarse tokens, the highest of them, and where their children lie in the fine map."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pst_jax.errors import UserError
from pst_jax.ops.attention import accumulation_dtype


def token_scores(
  q: Float[Array, "batch queries heads dim"], k: Float[Array, "batch coarse heads dim"]
) -> Float[Array, "batch heads coarse"]:
  """Mean over the queries of q k^T / sqrt(dim), without the queries x coarse matrix.

  The mean of the products is the product of the mean: (mean_n q_n) k^T / sqrt(dim).
  """
  dtype = accumulation_dtype(q.dtype)
  mean_query = jnp.mean(q, axis=1, dtype=dtype)
  scores = jnp.einsum("bhd,bmhd->bhm", mean_query, k, preferred_element_type=dtype)
  return scores / jnp.sqrt(q.shape[-1])


def take_largest(
  x: Float[Array, "*batch n"], taken: Bool[Array, "*batch n"]
) -> tuple[Int[Array, "*batch 1"], Bool[Array, "*batch n"]]:
  """Index of the largest value that is not taken, the lower of equal ones; then it is taken too."""
  best = jnp.max(x, axis=-1, keepdims=True, where=~taken, initial=-jnp.inf)
  position = jnp.arange(x.shape[-1])
  # Not `x == best`: whatever the values (-inf, NaN), another one is taken.
  index = jnp.where(taken | (x < best), x.shape[-1], position).min(axis=-1, keepdims=True)
  return index, taken | (position == index)


def select_top_k(
  scores: Float[Array, "*batch coarse"], k: int, key: PRNGKeyArray | None = None
) -> Int[Array, "*batch {k}"]:
  """The `k` highest scores, the best first; of equal ones the lower index. Ignores the key.

  Equal to `jax.lax.top_k(scores, k)[1]`. The partitioner of XLA for CPUs replicates that operation:
  a batch split over devices would be gathered for it. Reductions stay where the examples are.
  """
  del key
  tokens = scores.shape[-1]
  # The scan below would go on with an index past the end, which no gather would notice.
  if k > tokens:
    raise UserError(f"k={k} tokens were asked for, but there are {tokens}: choose at most {tokens}")

  def pick_next(taken, _):
    index, taken = take_largest(scores, taken)
    return taken, index[..., 0]

  scores = jax.lax.stop_gradient(scores)
  picked = jax.lax.scan(pick_next, jnp.zeros(scores.shape, bool), length=k)[1]
  return jnp.moveaxis(picked, 0, -1)


def check_pyramid(fine: tuple[int, int], coarse: tuple[int, int], top_k: int) -> None:
  """Raises UserError unless `coarse` is `fine` halved (rounded up) and has `top_k` tokens."""
  expected = ((fine[0] + 1) // 2, (fine[1] + 1) // 2)
  if coarse != expected:
    raise UserError(
      f"the coarse map is {coarse[0]}x{coarse[1]}, but a fine map of {fine[0]}x{fine[1]} needs "
      f"{expected[0]}x{expected[1]}: give two neighbouring levels of one pyramid"
    )
  tokens = coarse[0] * coarse[1]
  if not 0 <= top_k <= tokens:
    raise UserError(
      f"top_k={top_k} coarse tokens were asked for, but the coarse map of "
      f"{coarse[0]}x{coarse[1]} has {tokens}: choose top_k between 0 and {tokens}"
    )


def child_indices(
  selected: Int[Array, "*batch k"], coarse: tuple[int, int], fine: tuple[int, int]
) -> tuple[Int[Array, "*batch 4*k"], Bool[Array, "*batch 4*k"]]:
  """Positions in the fine map of the 2x2 children of coarse tokens.

  Coarse token (r, c) has the fine tokens (2r + dr, 2c + dc), dr, dc in {0, 1}.

  Args:
    selected: indices into the flattened coarse map; -1: no token.
    coarse, fine: height and width of the maps; odd sizes are allowed.

  Returns:
    Indices into the flattened fine map, and a mask that is False for children past its border or
    of no token (their index is 0, so that it may be gathered).
  """
  row, column = jnp.divmod(selected[..., None], coarse[1])
  row = 2 * row + jnp.array([0, 0, 1, 1])
  column = 2 * column + jnp.array([0, 1, 0, 1])
  inside = (selected[..., None] >= 0) & (row < fine[0]) & (column < fine[1])
  index = jnp.where(inside, row * fine[1] + column, 0)
  flat = (*selected.shape[:-1], 4 * selected.shape[-1])
  return index.reshape(flat), inside.reshape(flat)
