"""Coarse attention as Pallas kernels for TPUs: no queries x tokens matrix ever reaches HBM.

All coarse tokens of an image lie in VMEM at once, so the softmax of a block of queries needs no
running maximum. The backward pass is one kernel: from the logarithms of the softmax's sums, which
the forward pass keeps, it computes the weights again, a chunk of tokens at a time (Dao,
FlashAttention-2, arXiv 2307.08691, section 3.1.2).

Heads lie side by side in the 128 lanes, as the projections leave them: nothing is transposed on the
way in or out. For a head of 32 the other lanes of the queries are zeros, which costs a matrix unit
that is 128 deep no more than 32 lanes alone would.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from pst_jax.ops.kernels.choice import MOST_TOKENS

LANES = 128
# Cycles by the compiler for v5e, `python -m benchmarks.tpu_attention`: 128 queries take 9 % more
# forward, 512 are as good; chunks of 512 and 256 tokens take 3 and 7 % more backward.
BLOCK, CHUNK = 256, 1024
# Of the queries x tokens matrix of a block; a v4 gives a kernel 16 MiB of VMEM for everything.
MATRIX_BYTES = 4 * LANES * MOST_TOKENS
# What tokens that only pad score.
_NOTHING = -1e30


def attention(
  q: Float[Array, "batch queries heads dim"],
  k: Float[Array, "batch coarse heads dim"],
  v: Float[Array, "batch coarse heads dim"],
  scale: float,
) -> Float[Array, "batch queries heads dim"]:
  """softmax(scale q k^T) v; the kernels are interpreted where there is no TPU.

  Scores, softmax and sums are float32 or wider whatever the inputs are.

  Raises:
    ValueError: heads wider than 128, more coarse tokens than VMEM holds, or a symbolic batch.
  """
  batch, queries, heads, dim = q.shape
  tokens = k.shape[1]
  if dim > LANES or tokens > MOST_TOKENS:
    raise ValueError(
      f"{tokens} tokens of heads that are {dim} wide are too many for the kernels, which take "
      f"{MOST_TOKENS} of {LANES} at most: choose the implementation blocked"
    )
  if not isinstance(batch, int):
    raise ValueError("the kernels take no symbolic batch: choose the implementation auto")
  shape = _Shape(queries, tokens, dim, scale)
  rows = (_lay_out(q, shape.width, shape.block), *(_lay_out(x, shape.width, LANES) for x in (k, v)))
  out = _attention(*rows, shape)[:, :queries, : heads * shape.width]
  return out.reshape(batch, queries, heads, shape.width)[..., :dim]


@dataclasses.dataclass(frozen=True)
class _Shape:
  """What the kernels know of an image when they are compiled."""

  queries: int
  tokens: int
  dim: int
  scale: float

  @property
  def width(self) -> int:
    """Lanes of a head: a power of two, so that heads do not cross groups of lanes."""
    return 1 << (self.dim - 1).bit_length()

  @property
  def block(self) -> int:
    return query_block(self.queries, self.tokens)


def query_block(queries: int, tokens: int) -> int:
  """Queries that are worked on at once, in one step of the grid."""
  fitting = MATRIX_BYTES // (4 * _up(tokens, LANES)) // LANES * LANES
  return max(LANES, min(BLOCK, fitting, _up(queries, LANES)))


def _up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def _lay_out(x, width: int, multiple: int):
  """[batch, tokens, heads, dim] -> [batch, tokens, channels], padded to whole tiles."""
  batch, tokens, heads, dim = x.shape
  x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - dim))).reshape(batch, tokens, heads * width)
  channels = _up(heads * width, LANES) if heads * width > LANES else heads * width
  return jnp.pad(x, ((0, 0), (0, _up(tokens, multiple) - tokens), (0, channels - heads * width)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q, k, v, shape):
  return _forward(q, k, v, shape)[0]


def _forward(q, k, v, shape):
  inputs = {"queries": (q,), "tokens": (k, v), "sums": ()}
  return _call(_forward_kernel, shape, inputs, outputs=("queries", "sums"), products=2)


def _attention_fwd(q, k, v, shape):
  out, log_sums = _forward(q, k, v, shape)
  return out, (q, k, v, out, log_sums)


def _attention_bwd(shape, residuals, d_out):
  q, k, v, out, log_sums = residuals
  inputs = {"queries": (q, out, d_out), "tokens": (k, v), "sums": (log_sums,)}
  outputs = ("queries", "tokens", "tokens")
  dq, dk, dv = _call(_backward_kernel, shape, inputs, outputs, products=5)
  return dq, dk.astype(k.dtype), dv.astype(v.dtype)


_attention.defvjp(_attention_fwd, _attention_bwd)


def _call(kernel, shape, inputs, outputs, products):
  """Runs a kernel for every image, group of lanes and block of queries, in this order.

  Arrays are named by how they are laid out: queries and tokens [batch, rows, channels], sums
  [batch, groups, heads of a group, queries].
  """
  (q, *_), (k, *_) = inputs["queries"], inputs["tokens"]
  batch, queries, channels = q.shape
  lanes = min(LANES, channels)
  grid = batch, channels // lanes, queries // shape.block
  heads = lanes // shape.width
  wide = jnp.promote_types(q.dtype, jnp.float32)
  specs = {
    "queries": pl.BlockSpec((None, shape.block, lanes), lambda i, group, block: (i, block, group)),
    "tokens": pl.BlockSpec((None, k.shape[1], lanes), lambda i, group, block: (i, 0, group)),
    "sums": pl.BlockSpec(
      (None, None, heads, shape.block), lambda i, group, block: (i, group, 0, block)
    ),
  }
  results = {
    "queries": jax.ShapeDtypeStruct(q.shape, q.dtype),
    # Gradients of tokens are added up over the blocks of queries.
    "tokens": jax.ShapeDtypeStruct(k.shape, wide),
    "sums": jax.ShapeDtypeStruct((batch, grid[1], heads, queries), wide),
  }
  names = [name for name, arrays in inputs.items() for _ in arrays]
  arrays = [array for group in inputs.values() for array in group]
  moved = sum(x.size * x.dtype.itemsize for x in (*arrays, *(results[name] for name in outputs)))
  scores = batch * (channels // shape.width) * shape.queries * shape.tokens

  def run(*arrays, interpret):
    return pl.pallas_call(
      functools.partial(kernel, shape=shape),
      grid=grid,
      in_specs=[specs[name] for name in names],
      out_specs=[specs[name] for name in outputs],
      out_shape=[results[name] for name in outputs],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary")
      ),
      cost_estimate=pl.CostEstimate(
        flops=2 * products * scores * shape.dim, bytes_accessed=moved, transcendentals=scores
      ),
      interpret=interpret,
      name=f"coarse_attention{kernel.__name__.removesuffix('_kernel')}",
    )(*arrays)

  return jax.lax.platform_dependent(
    *arrays,
    tpu=functools.partial(run, interpret=False),
    default=functools.partial(run, interpret=True),
  )


def _heads(lanes: int, width: int):
  """For each head of a group of lanes: where it is, as [1, lanes]."""
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
  return [(lane >= first) & (lane < first + width) for first in range(0, lanes, width)]


def _product(a, b, axes: tuple[int, int]):
  """The product of two matrices over one axis of each."""
  wide = jnp.promote_types(a.dtype, jnp.float32)
  return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=wide)


def _as_row(column):
  """[queries, 1] -> [1, queries]."""
  return jnp.broadcast_to(column, (column.shape[0], LANES)).T[:1]


def _scores(a, b, shape, tokens_from: int, axis: int):
  """Scaled products of rows; tokens lie on `axis`, and those that only pad score nothing."""
  scores = _product(a, b, (1, 1)) * shape.scale
  if tokens_from + scores.shape[axis] <= shape.tokens:
    return scores
  token = tokens_from + jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis)
  return jnp.where(token < shape.tokens, scores, _NOTHING)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, sums_ref, *, shape):
  q, k, v = q_ref[...], k_ref[...], v_ref[...]
  out = jnp.zeros(q.shape, sums_ref.dtype)
  for i, head in enumerate(_heads(q.shape[1], shape.width)):
    scores = _scores(jnp.where(head, q, 0), k, shape, 0, axis=1)
    largest = scores.max(1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(1, keepdims=True)
    out = jnp.where(head, _product(weights.astype(v.dtype), v, (1, 0)) / total, out)
    sums_ref[i : i + 1, :] = _as_row(largest + jnp.log(total))
  out_ref[...] = out.astype(out_ref.dtype)


def _backward_kernel(
  q_ref, out_ref, d_out_ref, k_ref, v_ref, sums_ref, dq_ref, dk_ref, dv_ref, *, shape
):
  """All matrices are tokens x queries, so that one of five products transposes, not three."""
  wide, (_, lanes) = sums_ref.dtype, q_ref.shape

  @pl.when(pl.program_id(2) == 0)
  def _():
    dk_ref[...] = jnp.zeros_like(dk_ref)
    dv_ref[...] = jnp.zeros_like(dv_ref)

  dq_of_all = jnp.zeros(q_ref.shape, wide)
  for i, head in enumerate(_heads(lanes, shape.width)):
    q, d_out = jnp.where(head, q_ref[...], 0), jnp.where(head, d_out_ref[...], 0)
    # The mean of the weights' gradients.
    mean = _as_row((d_out.astype(wide) * out_ref[...].astype(wide)).sum(1, keepdims=True))
    dq = jnp.zeros(q.shape, wide)
    for first in range(0, k_ref.shape[0], CHUNK):
      part = slice(first, min(first + CHUNK, k_ref.shape[0]))
      k, v = k_ref[part, :], v_ref[part, :]
      weights = jnp.exp(_scores(k, q, shape, first, axis=0) - sums_ref[i : i + 1, :])
      d_weights = _product(v, d_out, (1, 1))
      d_scores = (weights * (d_weights - mean) * shape.scale).astype(q.dtype)
      dv_ref[part, :] += _product(weights.astype(q.dtype), d_out, (1, 0))
      dk_ref[part, :] += _product(d_scores, q, (1, 0))
      dq += _product(d_scores, k, (0, 0))
    dq_of_all = jnp.where(head, dq, dq_of_all)
  dq_ref[...] = dq_of_all.astype(dq_ref.dtype)
