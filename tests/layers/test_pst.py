import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.golden_values import difference
from support.quick_jit import quick_jit
from support.random_variables import random_variables

from pst_jax import ops
from pst_jax.layers import PST, PSTBlock, PyramidSparseAttention

HEADS, CHANNELS = 2, 64


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def two_levels(fine=(8, 8), channels=CHANNELS):
  coarse = (fine[0] + 1) // 2, (fine[1] + 1) // 2
  return normal(0, 2, *fine, channels), normal(1, 2, *coarse, channels)


def apply(module, variables, *maps, **arguments):
  return quick_jit(lambda variables, *maps: module.apply(variables, *maps, **arguments))(
    variables, *maps
  )


# The formula of SPEC section 2, written with the queries x tokens matrices of both maps.


def norm(variables, name, x):
  params, statistics = variables["params"][name]["bn"], variables["batch_stats"][name]["bn"]
  x = (x - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5)
  return x * params["scale"] + params["bias"]


def linear(variables, name, x):
  return norm(variables, name, x @ variables["params"][name]["conv"]["kernel"][0, 0])


def heads_first(x):
  return x.reshape(x.shape[0], -1, HEADS, x.shape[-1] // HEADS).transpose(0, 2, 1, 3)


def keys_and_values(variables, x):
  return jnp.split(heads_first(linear(variables, "kv", x)), 2, axis=-1)


def is_child(selected, coarse, fine):
  """[batch, heads, fine tokens]: whether the coarse token above is among the selected."""
  row, column = np.divmod(np.arange(fine[0] * fine[1]), fine[1])
  parent = row // 2 * coarse[1] + column // 2
  return (selected[..., None] == parent).any(axis=2)


def naive_attention(variables, x, upper, top_k, select):
  batch, height, width, channels = x.shape
  q = heads_first(linear(variables, "q", x))
  k, v = keys_and_values(variables, upper)
  scores = q @ k.mT / jnp.sqrt(q.shape[-1])
  out = jax.nn.softmax(scores, -1) @ v
  if top_k:
    chosen = is_child(select(scores.mean(axis=2), top_k), upper.shape[1:3], x.shape[1:3])
    k_fine, v_fine = keys_and_values(variables, x)
    fine_scores = q @ k_fine.mT / jnp.sqrt(q.shape[-1])
    fine = jax.nn.softmax(jnp.where(chosen[:, :, None], fine_scores, -jnp.inf), -1) @ v_fine
    params = variables["params"]
    gate = jax.nn.sigmoid(
      jnp.concatenate([out, fine], -1) @ params["gate_kernel"] + params["gate_bias"]
    )
    out = gate * fine + (1 - gate) * out
  out = out.transpose(0, 2, 1, 3).reshape(x.shape)

  value_map = v.transpose(0, 2, 1, 3).reshape(upper.shape)
  position = jax.lax.conv_general_dilated(
    value_map,
    variables["params"]["pe"]["conv"]["kernel"],
    (1, 1),
    [(3, 3), (3, 3)],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=channels,
  )
  position = norm(variables, "pe", position)
  position = jax.image.resize(position, (batch, height, width, channels), "bilinear")
  return linear(variables, "proj", out + position)


def lax_top_k(scores, k):
  return jax.lax.top_k(scores, k)[1]


@pytest.mark.parametrize(
  ("fine", "top_k"), [((8, 8), 3), ((7, 8), 3), ((8, 5), 3), ((7, 5), 3), ((7, 5), 0), ((8, 8), 16)]
)
def test_attention_in_evaluation_is_its_formula(fine, top_k):
  maps, module = two_levels(fine), PyramidSparseAttention(num_heads=HEADS, top_k=top_k)
  variables = random_variables(module, *maps)
  expected = quick_jit(naive_attention, static_argnums=(3, 4))(variables, *maps, top_k, lax_top_k)
  assert difference(apply(module, variables, *maps), expected) <= 1e-5


def test_fine_branch_in_evaluation_has_the_gradients_of_its_formula():
  (x, upper), module = two_levels((7, 8)), PyramidSparseAttention(num_heads=HEADS, top_k=3)
  variables, probe = random_variables(module, x, upper), normal(2, *x.shape)

  def gradients(attention):
    def loss(params, x, upper):
      return jnp.vdot(probe, attention(variables | {"params": params}, x, upper))

    return quick_jit(jax.grad(loss, argnums=(0, 1, 2)))(variables["params"], x, upper)

  def formula(variables, x, upper):
    return naive_attention(variables, x, upper, 3, lax_top_k)

  # A shift of every key changes no softmax: the keys' bias has gradient 0 but for rounding.
  def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-3 * max(np.std(expected), 0.1))

  jax.tree.map(close, gradients(module.apply), gradients(formula))


def test_ones_own_selection_decides_which_tokens_are_opened():
  def last_tokens(scores, k, key=None):
    return jnp.broadcast_to(scores.shape[-1] - 1 - jnp.arange(k), (*scores.shape[:-1], k))

  maps = two_levels()
  module = PyramidSparseAttention(num_heads=HEADS, top_k=3, selection=last_tokens)
  variables = random_variables(module, *maps)
  expected = quick_jit(naive_attention, static_argnums=(3, 4))(variables, *maps, 3, last_tokens)
  assert difference(apply(module, variables, *maps), expected) <= 1e-5


@pytest.mark.parametrize("implementation", ["einsum", "dot_product", "blocked", "pallas"])
def test_coarse_implementations_give_the_same_map(implementation):
  maps, module = two_levels(), PST(features=64, top_k=3)
  variables = random_variables(module, *maps)

  @quick_jit
  def both(variables):
    other = module.clone(coarse_implementation=implementation)
    return other.apply(variables, *maps), module.apply(variables, *maps)

  assert difference(*both(variables)) <= 1e-5


# Training


def test_coarse_training_moves_the_statistics_of_kv_once():
  (x, upper), module = two_levels(), PyramidSparseAttention(num_heads=HEADS)
  variables = random_variables(module, x, upper)
  _, updates = apply(module, variables, x, upper, train=True, mutable="batch_stats")
  rows = upper @ variables["params"]["kv"]["conv"]["kernel"][0, 0]
  before = variables["batch_stats"]["kv"]["bn"]["mean"]
  np.testing.assert_allclose(
    updates["batch_stats"]["kv"]["bn"]["mean"],
    0.9 * before + 0.1 * rows.mean((0, 1, 2)),
    atol=1e-5,
  )


def test_fine_training_moves_the_statistics_of_kv_for_the_coarse_then_the_fine_map():
  (x, upper), module = two_levels(), PyramidSparseAttention(num_heads=HEADS, top_k=3)
  variables = random_variables(module, x, upper)
  _, updates = apply(module, variables, x, upper, train=True, mutable="batch_stats")
  expected = variables["batch_stats"]["kv"]["bn"]
  for level in (upper, x):
    rows = level @ variables["params"]["kv"]["conv"]["kernel"][0, 0]
    rows = rows.reshape(-1, rows.shape[-1])
    expected = {
      "mean": 0.9 * expected["mean"] + 0.1 * rows.mean(0),
      "var": 0.9 * expected["var"] + 0.1 * rows.var(0, ddof=1),
    }
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    dict(updates["batch_stats"]["kv"]["bn"]),
    expected,
  )


@pytest.mark.parametrize("top_k", [0, 3])
def test_the_gate_learns_only_with_the_fine_branch(top_k):
  maps, module = two_levels(), PyramidSparseAttention(num_heads=HEADS, top_k=top_k)
  variables = random_variables(module, *maps)

  def loss(params):
    out, _ = module.apply(variables | {"params": params}, *maps, train=True, mutable="batch_stats")
    return jnp.square(out - 1).sum() + out[0].sum()

  gradients = quick_jit(jax.grad(loss))(variables["params"])
  assert np.any(gradients["gate_kernel"]) == np.any(gradients["gate_bias"]) == (top_k > 0)


# Parameters


MODULES = {
  "attention": PyramidSparseAttention(num_heads=HEADS),
  "block": PSTBlock(num_heads=HEADS),
  "pst": PST(features=128, num_blocks=2),
}


@pytest.mark.parametrize("name", MODULES)
def test_top_k_changes_no_variable(name):
  def shapes(top_k):
    module = MODULES[name].clone(top_k=top_k)
    return jax.eval_shape(module.init, jax.random.key(0), *two_levels())

  assert shapes(0) == shapes(8)


@pytest.mark.parametrize("name", MODULES)
def test_top_k_changes_the_output(name):
  module, maps = MODULES[name], two_levels()
  variables = random_variables(module, *maps)
  coarse, fine = (apply(module.clone(top_k=k), variables, *maps) for k in (0, 8))
  assert difference(fine, coarse) > 0.01


def test_the_gate_starts_at_one_half():
  params = quick_jit(PyramidSparseAttention(num_heads=HEADS).init)(
    jax.random.key(0), *two_levels()
  )["params"]
  # sigmoid(0) = 0.5
  assert not np.any(params["gate_kernel"])
  assert not np.any(params["gate_bias"])


def test_every_convolution_of_a_block_starts_narrow_and_only_those():
  maps, module = two_levels(), PST(features=128)
  params = flatten_dict(quick_jit(module.init)(jax.random.key(0), *maps)["params"], sep="/")
  kernels = {name: np.std(value) for name, value in params.items() if name.endswith("conv/kernel")}
  in_block = {name: std for name, std in kernels.items() if name.startswith("block0/")}
  assert len(in_block) == 6
  np.testing.assert_allclose(list(in_block.values()), 0.02, rtol=0.1)
  outside = kernels.keys() - in_block.keys()
  np.testing.assert_allclose(
    [kernels[name] for name in outside],
    [1 / np.sqrt(3 * np.prod(params[name].shape[:-1])) for name in outside],
    rtol=0.05,
  )


def test_mlp_ratio_and_blocks_shape_the_module():
  module = PST(features=96, num_blocks=2, mlp_ratio=1.2, expansion=1.0)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *two_levels())["params"]
  assert shapes.keys() == {"cv1", "cvup", "block0", "block1", "cv2"}
  assert shapes["block1"]["mlp0"]["conv"]["kernel"].shape == (1, 1, 96, 115)
  assert shapes["block0"]["attn"]["gate_kernel"].shape == (64, 32)
  assert shapes["cv2"]["conv"]["kernel"].shape == (1, 1, 3 * 96, 96)


# Noise


def test_two_calls_give_the_same_map():
  maps, module = two_levels(), PST(features=64, top_k=4)
  variables = random_variables(module, *maps)
  np.testing.assert_array_equal(apply(module, variables, *maps), apply(module, variables, *maps))


def test_a_key_does_not_touch_the_exact_selection():
  maps, module = two_levels(), PST(features=64, top_k=4)
  variables = random_variables(module, *maps)
  with_key = apply(module, variables, *maps, rngs={"selection": jax.random.key(0)})
  np.testing.assert_array_equal(with_key, apply(module, variables, *maps))


def test_gumbel_noise_is_decided_by_the_key():
  maps = two_levels()
  module = PST(features=64, top_k=4, selection=ops.select_gumbel)
  variables = random_variables(module.clone(top_k=0), *maps)

  @quick_jit
  def run(seed):
    return module.apply(variables, *maps, rngs={"selection": jax.random.key(seed)})

  np.testing.assert_array_equal(run(0), run(0))
  assert np.any(run(0) != run(1))


def test_gumbel_noise_without_a_key_is_refused():
  maps = two_levels()
  module = PST(features=64, top_k=4, selection=ops.select_gumbel)
  variables = random_variables(module.clone(top_k=0), *maps)
  with pytest.raises(ValueError, match="no PRNG key"):
    jax.eval_shape(module.apply, variables, *maps)


# Types and transformations


def test_bfloat16_is_near_float32_with_parameters_in_float32():
  maps, module = two_levels(), PST(features=64, top_k=4)
  variables = random_variables(module.clone(dtype=jnp.bfloat16), *maps)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
  out = apply(module.clone(dtype=jnp.bfloat16), variables, *maps)
  assert out.dtype == jnp.bfloat16
  # Another token may win in bfloat16: the mean difference tells, not the largest one.
  expected = np.asarray(apply(module, variables, *maps))
  assert np.abs(out.astype(np.float32) - expected).mean() <= 0.02 * expected.std()


def test_vmap_over_examples_is_a_batch():
  maps, module = two_levels(), PST(features=64, top_k=4)
  variables = random_variables(module, *maps)
  per_example = jax.vmap(lambda x, upper: module.apply(variables, x[None], upper[None])[0])
  assert difference(quick_jit(per_example)(*maps), apply(module, variables, *maps)) <= 1e-5


# Mistakes


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_maps_that_are_no_neighbours_are_refused(module):
  with pytest.raises(ValueError, match="4x4, but a fine map of 9x8 needs 5x4"):
    jax.eval_shape(
      module.init, jax.random.key(0), normal(0, 1, 9, 8, CHANNELS), normal(1, 1, 4, 4, CHANNELS)
    )


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_opening_more_tokens_than_there_are_is_refused(module):
  with pytest.raises(ValueError, match=r"top_k=17 coarse tokens .* has 16"):
    jax.eval_shape(module.clone(top_k=17).init, jax.random.key(0), *two_levels())


def test_heads_that_do_not_divide_the_channels_are_refused():
  with pytest.raises(ValueError, match="64 channels do not divide into 3 heads"):
    jax.eval_shape(PyramidSparseAttention(num_heads=3).init, jax.random.key(0), *two_levels())


@pytest.mark.parametrize(
  ("features", "expansion", "inner", "nearest"),
  [(100, 0.5, 50, 64), (64, 0.3, 19, 32), (1070, 0.3, 321, 320), (8, 0.5, 4, 32)],
)
def test_a_width_that_is_no_multiple_of_32_is_refused(features, expansion, inner, nearest):
  module = PST(features=features, expansion=expansion)
  with pytest.raises(ValueError, match=rf"is {inner} channels wide .* expansion = {nearest}"):
    jax.eval_shape(module.init, jax.random.key(0), *two_levels())


@pytest.mark.parametrize(
  ("rule", "got"),
  [
    (lambda scores, k, key: scores.argmax(axis=-1), "int32[2,1]"),
    (lambda scores, k, key: jax.lax.top_k(scores, k)[0], "float32[2,1,4]"),
    (lambda scores, k, key: jax.lax.top_k(scores, k), "a list"),
  ],
)
def test_a_selection_that_returns_something_else_is_refused_with_what_it_must_return(rule, got):
  module = PST(features=64, top_k=4, selection=rule)
  with pytest.raises(ValueError, match=rf"{re.escape(got)}, .* int\[2,1,4\]"):
    jax.eval_shape(module.init, jax.random.key(0), *two_levels())
