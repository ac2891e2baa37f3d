import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.quick_jit import quick_jit

from pst_jax import ops


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# token_scores


def mean_of_full_matrix(q, k):
  return jnp.einsum("bnhd,bmhd->bhnm", q, k).mean(axis=2) / jnp.sqrt(q.shape[-1])


def test_scores_are_the_mean_of_the_full_matrix():
  q, k = normal(0, 2, 48, 3, 8), normal(1, 2, 12, 3, 8)
  np.testing.assert_allclose(
    quick_jit(ops.token_scores)(q, k), quick_jit(mean_of_full_matrix)(q, k), atol=1e-6
  )


def test_scores_have_the_gradients_of_the_full_matrix():
  q, k, probe = normal(0, 2, 48, 3, 8), normal(1, 2, 12, 3, 8), normal(2, 2, 3, 12)

  def gradients(scores):
    gradient = jax.grad(lambda q, k: jnp.vdot(probe, scores(q, k)), argnums=(0, 1))
    return quick_jit(gradient)(q, k)

  for actual, expected in zip(
    gradients(ops.token_scores), gradients(mean_of_full_matrix), strict=True
  ):
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_scores_under_vmap():
  q, k = normal(0, 2, 48, 3, 8), normal(1, 2, 12, 3, 8)
  per_example = quick_jit(jax.vmap(lambda q, k: ops.token_scores(q[None], k[None])[0]))
  np.testing.assert_allclose(per_example(q, k), quick_jit(ops.token_scores)(q, k), atol=1e-6)


def test_scores_of_bfloat16_are_float32():
  q, k = normal(0, 2, 48, 3, 8), normal(1, 2, 12, 3, 8)
  token_scores = quick_jit(ops.token_scores)
  scores = token_scores(q.astype(jnp.bfloat16), k.astype(jnp.bfloat16))
  assert scores.dtype == jnp.float32
  np.testing.assert_allclose(scores, token_scores(q, k), atol=0.02)


# selection rules


# The others are in test_rules.py.
OF_SCORES = ["top_k", "gumbel", "random"]


def select(name, scores, k, seed=0):
  """Runs a rule with jax.random.key(seed)."""

  def run(scores, seed):
    return ops.SELECTIONS[name](scores, k, jax.random.key(seed))

  return np.asarray(quick_jit(run)(np.asarray(scores, np.float32), seed))


def test_top_k_are_the_highest_scores_best_first():
  selected = select("top_k", [[[3.0, 9.0, -1.0, 5.0]]], 3)
  np.testing.assert_array_equal(selected, [[[1, 3, 0]]])


def test_of_equal_scores_the_lower_index_comes_first():
  selected = select("top_k", [[[1.0, 2.0, 1.0, 2.0, 1.0]]], 4)
  np.testing.assert_array_equal(selected, [[[1, 3, 0, 2]]])


@pytest.mark.parametrize("k", [1, 5, 16])
def test_top_k_picks_what_lax_top_k_picks(k):
  scores = np.random.default_rng(0).integers(0, 6, size=(4, 3, 16)).astype(np.float32)
  np.testing.assert_array_equal(select("top_k", scores, k), jax.lax.top_k(scores, k)[1])


@pytest.mark.parametrize("name", OF_SCORES)
def test_more_tokens_than_scores_are_refused_with_both_numbers(name):
  with pytest.raises(ValueError, match=r"k=6 .* there are 5"):
    ops.SELECTIONS[name](np.zeros((1, 2, 5), np.float32), 6, jax.random.key(0))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_top_k_picks_different_tokens_whatever_the_scores(value):
  scores = np.full((1, 1, 6), value, np.float32)
  scores[..., 4] = 1
  assert sorted(select("top_k", scores, 6)[0, 0].tolist()) == [0, 1, 2, 3, 4, 5]


def test_top_k_of_a_sharded_batch_stays_on_its_devices():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  by_example = NamedSharding(mesh, PartitionSpec("data"))
  select_four = quick_jit(
    lambda scores: ops.select_top_k(scores, 4), in_shardings=by_example, out_shardings=by_example
  )
  program = select_four.lower(jax.ShapeDtypeStruct((16, 2, 64), jnp.float32)).compile().as_text()
  assert "all-gather" not in program


@pytest.mark.parametrize("name", OF_SCORES)
def test_every_selection_gives_k_different_tokens_under_vmap(name):
  @quick_jit
  @jax.vmap
  def select_per_example(scores, key):
    return ops.SELECTIONS[name](scores, 6, key)

  selected = select_per_example(normal(0, 5, 2, 3, 16), jax.random.split(jax.random.key(0), 5))
  assert selected.shape == (5, 2, 3, 6)
  for row in np.asarray(selected).reshape(-1, 6):
    assert len(set(row)) == 6
    assert set(row) <= set(range(16))


@pytest.mark.parametrize("name", OF_SCORES)
def test_values_taken_at_selected_tokens_can_be_differentiated(name):
  def loss(scores):
    selected = ops.SELECTIONS[name](scores, 2, jax.random.key(0))
    return jnp.take_along_axis(scores, selected, axis=-1).sum()

  scores = normal(0, 1, 2, 6)
  expected = np.zeros_like(scores)
  np.put_along_axis(expected, select(name, scores, 2), 1, axis=-1)
  np.testing.assert_array_equal(quick_jit(jax.grad(loss))(scores), expected)


@pytest.mark.parametrize("name", ["gumbel", "random"])
def test_a_random_selection_without_a_key_says_how_to_give_one(name):
  with pytest.raises(ValueError, match=r"no PRNG key.*rngs=\{'selection'"):
    ops.SELECTIONS[name](jnp.zeros((1, 1, 4)), 2, None)


@pytest.mark.parametrize("name", ["gumbel", "random"])
def test_a_random_selection_is_decided_by_its_key(name):
  scores = np.zeros((4, 2, 16))
  np.testing.assert_array_equal(select(name, scores, 5, seed=0), select(name, scores, 5, seed=0))
  assert np.any(select(name, scores, 5, seed=0) != select(name, scores, 5, seed=1))


SCORES = np.array([0.0, 1.0, -0.5, 2.0, 0.3])
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum()


@functools.cache
def gumbel_pairs():
  return select("gumbel", np.broadcast_to(SCORES, (20_000, 1, 5)), 2)[:, 0]


def test_first_gumbel_token_is_drawn_from_the_softmax():
  frequencies = np.bincount(gumbel_pairs()[:, 0], minlength=5) / 20_000
  # Four standard deviations of a frequency: 4 sqrt(p (1 - p) / draws) <= 0.0142
  np.testing.assert_allclose(frequencies, PROBABILITIES, atol=0.0142)


def test_second_gumbel_token_is_drawn_from_the_rest():
  first, second = gumbel_pairs().T
  after_best = second[first == 3]
  rest = np.where(np.arange(5) == 3, 0, PROBABILITIES)
  frequencies = np.bincount(after_best, minlength=5) / len(after_best)
  np.testing.assert_allclose(frequencies, rest / rest.sum(), atol=2 / np.sqrt(len(after_best)))


def test_random_selection_ignores_the_scores():
  extreme = np.linspace(-1e6, 1e6, 16) * np.ones((4, 2, 1))
  np.testing.assert_array_equal(
    select("random", extreme, 5), select("random", np.zeros((4, 2, 16)), 5)
  )


# child_indices


def child_indices(selected, coarse, fine):
  index, inside = quick_jit(ops.child_indices, static_argnums=(1, 2))(selected, coarse, fine)
  return np.asarray(index), np.asarray(inside)


def naive_children(token, coarse, fine):
  """[(row, column)] of the fine tokens inside the map."""
  row, column = token // coarse[1], token % coarse[1]
  positions = [(2 * row + dr, 2 * column + dc) for dr in (0, 1) for dc in (0, 1)]
  return [(r, c) for r, c in positions if r < fine[0] and c < fine[1]]


@pytest.mark.parametrize("fine", [(6, 8), (5, 8), (6, 7), (5, 7), (1, 1)])
def test_children_of_every_token_are_its_2x2_block_inside_the_map(fine):
  coarse = (fine[0] + 1) // 2, (fine[1] + 1) // 2
  tokens = coarse[0] * coarse[1]
  selected = np.arange(tokens)[None, None]
  index, inside = child_indices(selected, coarse, fine)
  assert index.shape == inside.shape == (1, 1, 4 * tokens)
  for token in range(tokens):
    children = slice(4 * token, 4 * token + 4)
    found = index[0, 0, children][inside[0, 0, children]].tolist()
    assert found == [r * fine[1] + c for r, c in naive_children(token, coarse, fine)]


@pytest.mark.parametrize("fine", [(6, 8), (5, 7)])
def test_all_tokens_together_have_every_fine_token_once(fine):
  coarse = (fine[0] + 1) // 2, (fine[1] + 1) // 2
  index, inside = child_indices(np.arange(coarse[0] * coarse[1])[None, None], coarse, fine)
  assert sorted(index[inside].tolist()) == list(range(fine[0] * fine[1]))


def test_a_child_past_the_border_has_an_index_that_may_be_gathered():
  index, inside = child_indices(np.array([[[5]]]), (2, 3), (3, 5))
  assert inside.tolist() == [[[True, False, False, False]]]
  assert index.tolist() == [[[14, 0, 0, 0]]]


def test_children_under_vmap():
  selected = np.array([[[0, 3]], [[5, 1]]])
  per_example = quick_jit(jax.vmap(lambda s: ops.child_indices(s, (2, 3), (3, 5))))
  for actual, expected in zip(
    per_example(selected), child_indices(selected, (2, 3), (3, 5)), strict=True
  ):
    np.testing.assert_array_equal(actual, expected)


# check_pyramid


@pytest.mark.parametrize(
  ("fine", "coarse"), [((8, 8), (4, 4)), ((7, 8), (4, 4)), ((8, 5), (4, 3)), ((1, 1), (1, 1))]
)
def test_neighbouring_levels_are_accepted(fine, coarse):
  ops.check_pyramid(fine, coarse, top_k=coarse[0] * coarse[1])


@pytest.mark.parametrize("coarse", [(4, 5), (3, 4), (8, 8), (2, 2)])
def test_maps_that_are_no_neighbours_are_refused_with_the_size_that_fits(coarse):
  with pytest.raises(ValueError, match=rf"{coarse[0]}x{coarse[1]}.*8x8 needs 4x4"):
    ops.check_pyramid((8, 8), coarse, top_k=0)


@pytest.mark.parametrize("top_k", [17, -1])
def test_more_tokens_than_there_are_is_refused_with_both_numbers(top_k):
  with pytest.raises(ValueError, match=rf"top_k={top_k} .*has 16: choose top_k between 0 and 16"):
    ops.check_pyramid((8, 8), (4, 4), top_k)
