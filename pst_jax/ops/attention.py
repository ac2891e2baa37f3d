"""The two attentions of PST and the gate that joins them (arXiv 2505.12772, section 3).

Token axes follow `jax.nn.dot_product_attention`: [batch, tokens, heads, dim]. Products run in the
dtype of the inputs and accumulate in float32 or wider; softmax is taken in that wider type.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from pst_jax.ops.kernels.choice import FORMS, choose


def accumulation_dtype(dtype):
  """float32, or `dtype` where that is wider: the type of softmax, statistics and parameters."""
  return jnp.promote_types(dtype, jnp.float32)


def split_heads(
  kv: Float[Array, "batch *space channels"], num_heads: int
) -> tuple[Float[Array, "batch tokens heads dim"], Float[Array, "batch tokens heads dim"]]:
  """Keys and values of a map whose 2C channels hold, head after head, first k then v."""
  tokens = rearrange(kv, "b ... (h d) -> b (...) h d", h=num_heads)
  k, v = jnp.split(tokens, 2, axis=-1)
  return k, v


def _attend(q, k, v):
  scores = jnp.einsum(
    "bnhd,bmhd->bhnm", q, k, preferred_element_type=accumulation_dtype(q.dtype)
  ) / jnp.sqrt(q.shape[-1])
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def _attend_dot_product(q, k, v):
  return _with_keys_as_wide_as_values(jax.nn.dot_product_attention, q, k, v)


def _with_keys_as_wide_as_values(attend, q, k, v):
  # Some forms want it so; zeros change no product.
  missing = ((0, 0), (0, 0), (0, 0), (0, v.shape[-1] - k.shape[-1]))
  return attend(jnp.pad(q, missing), jnp.pad(k, missing), v, scale=q.shape[-1] ** -0.5)


def _attend_blocked(q, k, v, most=128):
  queries = q.shape[1]
  blocks = -(-queries // most)
  size = -(-queries // blocks)  # so that next to nothing is padded
  padded = jnp.pad(q, ((0, 0), (0, blocks * size - queries), (0, 0), (0, 0)))

  # Without the checkpoint the backward pass would keep the weights of every block: N x M again.
  @jax.checkpoint
  def attend_block(block):
    return _attend(block, k, v)

  out = jax.lax.map(attend_block, rearrange(padded, "b (n s) h d -> n b s h d", s=size))
  return rearrange(out, "n b s h d -> b (n s) h d")[:, :queries]


def _attend_pallas(q, k, v):
  # Late, as Pallas takes a while to load and few need it.
  from pst_jax.ops.kernels.attention import attention

  return _with_keys_as_wide_as_values(attention, q, k, v)


def _attend_auto(q, k, v):
  if not isinstance(q.shape[0], int):
    # An exported program is for any batch and several platforms at once, which no kernel can be.
    return COARSE_IMPLEMENTATIONS[choose("cpu", q.shape[1], k.shape[1])](q, k, v)
  forms = {
    platform: COARSE_IMPLEMENTATIONS[choose(platform, q.shape[1], k.shape[1])] for platform in FORMS
  }
  if all(form is _attend for form in forms.values()):
    return _attend(q, k, v)
  return jax.lax.platform_dependent(q, k, v, **forms, default=_attend)


COARSE_IMPLEMENTATIONS = {
  "auto": _attend_auto,
  "einsum": _attend,
  "dot_product": _attend_dot_product,
  "blocked": _attend_blocked,
  "pallas": _attend_pallas,
}


def coarse_attention(
  q: Float[Array, "batch queries heads dim"],
  k: Float[Array, "batch coarse heads dim"],
  v: Float[Array, "batch coarse heads value_dim"],
  *,
  implementation: str = "auto",
) -> Float[Array, "batch queries heads value_dim"]:
  """softmax(q k^T / sqrt(dim)) v: every fine query attends to every coarse token.

  Args:
    v: values, not narrower than the keys.
    implementation: `auto` takes what was measured to be fastest for the sizes on the platform that
      the program is compiled for, see `pst_jax.ops.kernels.choice`; `einsum` builds the queries x
      coarse matrix; `dot_product` calls `jax.nn.dot_product_attention`; `blocked` takes some
      queries at a time, in the backward pass too, so that memory is O(block x coarse); `pallas` is
      a kernel for TPUs, see `pst_jax.ops.kernels.attention`; elsewhere it runs interpreted. It has
      first derivatives in reverse mode alone, and so has `auto` for large maps: `blocked` has all.

  Raises:
    ValueError: for an unknown implementation, or sizes that `pallas` does not take.
  """
  if implementation not in COARSE_IMPLEMENTATIONS:
    raise ValueError(
      f"coarse attention implementation {implementation!r} is unknown: "
      f"choose one of {', '.join(COARSE_IMPLEMENTATIONS)}"
    )
  return COARSE_IMPLEMENTATIONS[implementation](q, k, v)


def fine_attention(
  q: Float[Array, "batch queries heads dim"],
  k: Float[Array, "batch heads *queries children dim"],
  v: Float[Array, "batch heads *queries children dim"],
  mask: Bool[Array, "batch heads *queries children"] | None = None,
) -> Float[Array, "batch queries heads dim"]:
  """Attention of every query to the children of its head's selected coarse tokens, or of its own.

  Args:
    k, v: of the gathered children; they differ from head to head, and from query to query where
      there is an axis for these.
    mask: False for children past the border of an odd-sized map or of no token; at least one child
      is True (the upper left child of a coarse token always exists).
  """
  dtype = accumulation_dtype(q.dtype)
  children = "bhkd" if k.ndim == 4 else "bhnkd"
  scores = jnp.einsum(f"bnhd,{children}->bhnk", q, k, preferred_element_type=dtype)
  scores = scores / jnp.sqrt(q.shape[-1])
  if mask is not None:
    mask = mask if mask.ndim == 4 else mask[:, :, None]
    scores = jnp.where(mask, scores, jnp.finfo(dtype).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum(f"bhnk,{children}->bnhd", weights, v)


def gated_fusion(
  coarse: Float[Array, "batch queries heads dim"],
  fine: Float[Array, "batch queries heads dim"],
  kernel: Float[Array, "2*dim dim"],
  bias: Float[Array, "dim"],
) -> Float[Array, "batch queries heads dim"]:
  """g * fine + (1 - g) * coarse with g = sigmoid([coarse; fine] kernel + bias), shared by heads."""
  dim = coarse.shape[-1]
  kernel = kernel.astype(coarse.dtype)
  logits = coarse @ kernel[:dim] + fine @ kernel[dim:]
  gate = jax.nn.sigmoid(logits.astype(accumulation_dtype(coarse.dtype)) + bias).astype(coarse.dtype)
  return gate * fine + (1 - gate) * coarse
