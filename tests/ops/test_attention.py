import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from support.quick_jit import quick_jit

from pst_jax import ops

BATCH, QUERIES, COARSE, HEADS, DIM = 2, 300, 20, 3, 8


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def coarse_inputs(queries=QUERIES):
  return (
    normal(0, BATCH, queries, HEADS, DIM),
    normal(1, BATCH, COARSE, HEADS, DIM),
    normal(2, BATCH, COARSE, HEADS, DIM),
  )


def coarse_attention(implementation):
  return functools.partial(ops.coarse_attention, implementation=implementation)


def gradients(function, *inputs):
  """Of every input, for the same random direction in the output."""
  probe = normal(99, *jax.eval_shape(function, *inputs).shape)

  def loss(*inputs):
    return jnp.vdot(probe, function(*inputs))

  return quick_jit(jax.grad(loss, argnums=range(len(inputs))))(*inputs)


def softmax(scores):
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def attention_of_one_head(q, k, v):
  return softmax(q @ k.T / np.sqrt(q.shape[-1])) @ v


def naive_coarse_attention(q, k, v):
  out = np.empty_like(q)
  for b in range(q.shape[0]):
    for h in range(q.shape[2]):
      out[b, :, h] = attention_of_one_head(q[b, :, h], k[b, :, h], v[b, :, h])
  return out


@pytest.mark.parametrize("implementation", ops.COARSE_IMPLEMENTATIONS)
@pytest.mark.parametrize("queries", [7, 256, 300])
def test_coarse_attention_is_softmax_attention(implementation, queries):
  q, k, v = coarse_inputs(queries)
  out = quick_jit(coarse_attention(implementation))(q, k, v)
  np.testing.assert_allclose(out, naive_coarse_attention(q, k, v), atol=2e-6)


@pytest.mark.parametrize("implementation", ["auto", "dot_product", "blocked"])
def test_coarse_implementations_have_equal_gradients(implementation):
  for actual, expected in zip(
    gradients(coarse_attention(implementation), *coarse_inputs()),
    gradients(coarse_attention("einsum"), *coarse_inputs()),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def largest_array(jaxpr):
  """Elements of the largest array in a jaxpr and all those inside it."""
  sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
  for eqn in jaxpr.eqns:
    sizes += [largest_array(inner) for inner in jaxprs_in_params(eqn.params)]
  return max(sizes, default=0)


def test_blocked_attention_never_holds_the_whole_matrix_even_in_its_gradient():
  shape = jax.ShapeDtypeStruct((1, 4096, 1, DIM), jnp.float32)
  small = jax.ShapeDtypeStruct((1, 1024, 1, DIM), jnp.float32)

  def size(implementation):
    def loss(q, k, v):
      return coarse_attention(implementation)(q, k, v).sum()

    return largest_array(jax.make_jaxpr(jax.grad(loss))(shape, small, small).jaxpr)

  assert size("einsum") == 4096 * 1024
  assert size("blocked") <= 128 * 1024


@pytest.mark.parametrize("implementation", ops.COARSE_IMPLEMENTATIONS)
def test_coarse_attention_under_vmap(implementation):
  q, k, v = coarse_inputs()

  @quick_jit
  @jax.vmap
  def per_example(q, k, v):
    return coarse_attention(implementation)(q[None], k[None], v[None])[0]

  np.testing.assert_allclose(per_example(q, k, v), naive_coarse_attention(q, k, v), atol=2e-6)


def test_an_unknown_implementation_lists_the_known_ones():
  known = "auto, einsum, dot_product, blocked, pallas"
  with pytest.raises(ValueError, match=rf"'flash' is unknown.*{known}"):
    ops.coarse_attention(*coarse_inputs(), implementation="flash")


def test_split_heads_gives_each_head_its_keys_then_its_values():
  # Channel c of the map holds the number c; 2 heads of 3 channels.
  kv = np.broadcast_to(np.arange(12), (1, 2, 2, 12))
  k, v = ops.split_heads(kv, num_heads=2)
  assert k.shape == v.shape == (1, 4, 2, 3)
  np.testing.assert_array_equal(k[0, 0], [[0, 1, 2], [6, 7, 8]])
  np.testing.assert_array_equal(v[0, 0], [[3, 4, 5], [9, 10, 11]])


def fine_inputs(children=12):
  q = normal(0, BATCH, QUERIES, HEADS, DIM)
  k, v = (normal(seed, BATCH, HEADS, children, DIM) for seed in (1, 2))
  return q, k, v


def naive_fine_attention(q, k, v, mask):
  out = np.empty_like(q)
  for b in range(q.shape[0]):
    for h in range(q.shape[2]):
      inside = mask[b, h]
      out[b, :, h] = attention_of_one_head(q[b, :, h], k[b, h, inside], v[b, h, inside])
  return out


def test_fine_attention_leaves_masked_children_out():
  q, k, v = fine_inputs()
  mask = np.random.default_rng(5).random((BATCH, HEADS, 12)) < 0.5
  mask[:, :, 0] = True
  np.testing.assert_allclose(
    quick_jit(ops.fine_attention)(q, k, v, mask), naive_fine_attention(q, k, v, mask), atol=2e-6
  )


def test_fine_attention_without_a_mask_takes_every_child():
  q, k, v = fine_inputs()
  everything = np.ones((BATCH, HEADS, 12), bool)
  np.testing.assert_allclose(
    quick_jit(ops.fine_attention)(q, k, v), naive_fine_attention(q, k, v, everything), atol=2e-6
  )


def test_fine_attention_does_not_depend_on_the_order_of_children():
  q, k, v = fine_inputs()
  order = np.random.default_rng(0).permutation(12)
  attend = quick_jit(ops.fine_attention)
  np.testing.assert_allclose(attend(q, k[:, :, order], v[:, :, order]), attend(q, k, v), atol=2e-6)


def test_masked_children_get_no_gradient():
  q, k, v = fine_inputs()
  mask = np.arange(12) < 7
  mask = np.broadcast_to(mask, (BATCH, HEADS, 12))
  for gradient in gradients(lambda k, v: ops.fine_attention(q, k, v, mask), k, v):
    assert np.all(np.isfinite(gradient))
    assert not np.any(gradient[:, :, 7:])
    assert np.any(gradient[:, :, :7])


def test_fine_attention_under_vmap():
  q, k, v = fine_inputs()
  per_example = jax.vmap(lambda q, k, v: ops.fine_attention(q[None], k[None], v[None])[0])
  np.testing.assert_allclose(
    quick_jit(per_example)(q, k, v), quick_jit(ops.fine_attention)(q, k, v), atol=2e-6
  )


def gate_inputs():
  coarse, fine = (normal(seed, BATCH, QUERIES, HEADS, DIM) for seed in (0, 1))
  return coarse, fine, normal(2, 2 * DIM, DIM), normal(3, DIM)


def fusion_of_concatenation(coarse, fine, kernel, bias):
  gate = jax.nn.sigmoid(jnp.concatenate([coarse, fine], -1) @ kernel + bias)
  return gate * fine + (1 - gate) * coarse


def test_gated_fusion_is_one_linear_layer_on_the_concatenation():
  np.testing.assert_allclose(
    quick_jit(ops.gated_fusion)(*gate_inputs()),
    quick_jit(fusion_of_concatenation)(*gate_inputs()),
    atol=5e-6,
  )


def test_gated_fusion_has_the_gradients_of_the_concatenated_form():
  for actual, expected in zip(
    gradients(ops.gated_fusion, *gate_inputs()),
    gradients(fusion_of_concatenation, *gate_inputs()),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_gated_fusion_with_a_zero_gate_is_the_mean():
  coarse, fine, kernel, bias = gate_inputs()
  out = quick_jit(ops.gated_fusion)(coarse, fine, np.zeros_like(kernel), np.zeros_like(bias))
  np.testing.assert_allclose(out, (coarse + fine) / 2, atol=1e-6)


def test_gated_fusion_under_vmap():
  coarse, fine, kernel, bias = gate_inputs()
  per_example = quick_jit(jax.vmap(ops.gated_fusion, in_axes=(0, 0, None, None)))
  np.testing.assert_allclose(
    per_example(coarse[:, None], fine[:, None], kernel, bias)[:, 0],
    quick_jit(ops.gated_fusion)(coarse, fine, kernel, bias),
    atol=5e-6,
  )


@pytest.mark.parametrize("implementation", [*ops.COARSE_IMPLEMENTATIONS, "fine"])
def test_attention_in_bfloat16_is_near_float32(implementation):
  if implementation == "fine":
    inputs, attention = fine_inputs(), quick_jit(ops.fine_attention)
  else:
    inputs, attention = coarse_inputs(), quick_jit(coarse_attention(implementation))
  out = attention(*(x.astype(jnp.bfloat16) for x in inputs))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(np.float32), attention(*inputs), atol=0.05)
