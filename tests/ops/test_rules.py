"""Rules of selection that look beyond the scores, each against NumPy; and the check of rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quick_jit import quick_jit

from pst_jax import ops
from pst_jax.errors import UserError
from research.rules import select_strongest

COARSE, FINE = (3, 4), (5, 8)


@functools.cache
def example(batch=2):
  rng = np.random.default_rng(0)

  def normal(size):
    return rng.normal(size=(batch, size[0] * size[1], 3, 8)).astype(np.float32)

  tokens = ops.Tokens(normal(FINE), normal(COARSE), normal(COARSE), normal(FINE), COARSE, FINE)
  return np.asarray(ops.token_scores(tokens.queries, tokens.keys)), tokens


def run(rule, k, scores=None):
  own, tokens = example()
  scores = own if scores is None else np.asarray(scores, np.float32)
  apply = quick_jit(lambda scores, tokens: ops.apply_selection(rule, scores, k, None, tokens))
  return np.asarray(apply(scores, tokens))


def softmax(x):
  powers = np.exp(x - x.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def weights(queries, keys):
  return softmax(np.einsum("bnhd,bmhd->bhnm", queries, keys) / np.sqrt(queries.shape[-1]))


def highest(scores, k):
  return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def test_mass_takes_tokens_until_the_share_is_reached():
  scores = np.log(np.array([[[0.1, 0.4, 0.2, 0.3]]]))
  np.testing.assert_array_equal(ops.select_mass(scores, 4, share=0.69), [[[1, 3, -1, -1]]])
  np.testing.assert_array_equal(ops.select_mass(scores, 4, share=0.71), [[[1, 3, 2, -1]]])
  np.testing.assert_array_equal(ops.select_mass(scores, 2, share=0.99), [[[1, 3]]])


def test_spread_takes_peaks_before_their_neighbours():
  scores = np.zeros((2, 3, *COARSE), np.float32)
  scores[..., 0, 0], scores[..., 0, 1], scores[..., 2, 3] = 9, 8, 5
  selected = run(ops.select_spread, 4, scores.reshape(2, 3, -1))
  assert selected[0, 0, :2].tolist() == [0, 11]
  assert 1 not in selected[0, 0, :3]  # beside the first peak
  assert np.all(selected[..., :2] == [0, 11])


def test_norm_takes_the_longest_values():
  lengths = np.swapaxes(np.linalg.norm(example()[1].values, axis=-1), 1, 2)
  np.testing.assert_array_equal(run(ops.select_norm, 5), highest(lengths, 5))


def test_entropy_takes_what_undecided_queries_attend_to():
  tokens = example()[1]
  attention = weights(tokens.queries, tokens.keys)
  entropy = -(attention * np.log(attention)).sum(axis=-1, keepdims=True)
  expected = highest((attention * entropy).sum(axis=2), 5)
  np.testing.assert_array_equal(run(ops.select_entropy, 5), expected)


def test_per_query_takes_the_highest_products_of_each_query():
  tokens = example()[1]
  products = np.einsum("bnhd,bmhd->bhnm", tokens.queries, tokens.keys)
  np.testing.assert_array_equal(run(ops.select_per_query, 3), highest(products, 3))


def fine_mass():
  """Attention to the fine map, by the coarse token above each fine one."""
  tokens = example()[1]
  received = weights(tokens.queries, tokens.fine_keys).mean(axis=2).reshape(2, 3, *FINE)
  padded = np.pad(received, ((0, 0), (0, 0), (0, 1), (0, 0)))
  return padded.reshape(2, 3, COARSE[0], 2, COARSE[1], 2).sum(axis=(3, 5)).reshape(2, 3, -1)


def test_the_mass_of_fine_attention_is_that_of_the_whole_matrix():
  mass = quick_jit(ops.fine_attention_mass)(example()[1])
  np.testing.assert_allclose(mass, fine_mass(), atol=1e-6)
  np.testing.assert_allclose(mass.sum(axis=-1), 1, atol=1e-5)


def test_the_mass_is_the_same_in_blocks_of_queries(monkeypatch):
  monkeypatch.setattr("pst_jax.ops.rules._QUERIES", 7)
  np.testing.assert_allclose(ops.fine_attention_mass(example()[1]), fine_mass(), atol=1e-6)


def test_the_oracle_takes_the_most_fine_attention():
  np.testing.assert_array_equal(run(ops.select_oracle, 5), highest(fine_mass(), 5))


# check_selection


@pytest.mark.parametrize("rule", [*ops.SELECTIONS.values(), select_strongest])
def test_the_rules_keep_to_what_a_selection_is(rule):
  ops.check_selection(rule)


def twice(scores, k, key):
  return jnp.zeros((*scores.shape[:2], k), jnp.int32)


def of_the_batch(scores, k, key):
  return ops.select_top_k(scores - scores.mean(axis=0), k)


def in_python(scores, k, key):
  return ops.select_top_k(scores if scores.max() > 0 else -scores, k)


@pytest.mark.parametrize(
  ("rule", "complaint"),
  [
    (lambda scores, k, key: scores, r"returned float32\[1,2,24\], but it must return the indices"),
    (lambda scores, k, key: None, "returned a NoneType, but"),
    (twice, r"opened a token twice: \[0, 0, 0, 0, 0\]"),
    (lambda scores, k, key: twice(scores, k, key) - 1, "opened no token of a head"),
    (
      lambda scores, k, key: ops.select_top_k(scores, k) + 1,
      "the index 24, but tokens are 0 to 23",
    ),
    (lambda scores, k, key: ops.select_top_k(scores, k) - 2, "the index -2, but"),
    (of_the_batch, "other tokens of an image where others are beside it"),
    (in_python, "does not run under jax.jit"),
  ],
)
def test_a_rule_that_does_not_is_told_why(rule, complaint):
  with pytest.raises(UserError, match=complaint):
    ops.check_selection(rule)


def at_random(scores, k, key):
  return jax.lax.top_k(jax.random.uniform(key, scores.shape), k)[1]


def test_a_random_rule_need_not_say_that_it_takes_a_key():
  ops.check_selection(at_random)


def test_the_name_of_a_module_that_cannot_be_is_told():
  with pytest.raises(UserError, match=r"selection='\.a:b' was given, but it must be one of"):
    ops.find_selection(".a:b")


# children of what the rules return


def test_children_of_no_token_are_masked():
  index, inside = ops.child_indices(np.array([[[2, -1]]]), COARSE, FINE)
  assert inside[0, 0].tolist() == [True] * 4 + [False] * 4
  assert index.min() >= 0


def test_attention_of_every_query_to_children_of_its_own_is_the_masked_whole():
  tokens = example()[1]
  selected = run(ops.select_per_query, 3)
  index, inside = ops.child_indices(selected, COARSE, FINE)
  values = np.random.default_rng(1).normal(size=tokens.fine_keys.shape).astype(np.float32)
  k, v = (ops.gather_tokens(each, index) for each in (tokens.fine_keys, values))
  actual = quick_jit(ops.fine_attention)(tokens.queries, k, v, inside)

  opened = np.zeros((2, 3, len(index[0, 0]), FINE[0] * FINE[1]), bool)
  np.put_along_axis(opened, np.asarray(index), np.asarray(inside), axis=-1)
  # Masked places put False into index 0, so it is set again where it is a child.
  first = (np.asarray(index) == 0) & np.asarray(inside)
  opened[..., 0] = first.any(axis=-1)
  scores = np.einsum("bnhd,bmhd->bhnm", tokens.queries, tokens.fine_keys) / np.sqrt(8)
  whole = softmax(np.where(opened, scores, -np.inf))
  np.testing.assert_allclose(actual, np.einsum("bhnm,bmhd->bnhd", whole, values), atol=1e-5)


def test_a_shared_choice_is_that_of_every_query():
  tokens = example()[1]
  shared = run(ops.select_top_k, 3)
  own = np.broadcast_to(shared[:, :, None], (2, 3, FINE[0] * FINE[1], 3))
  results = []
  for selected in (shared, own):
    index, inside = ops.child_indices(selected, COARSE, FINE)
    kv = ops.gather_tokens(tokens.fine_keys, index)
    results.append(ops.fine_attention(tokens.queries, kv, kv, inside))
  np.testing.assert_allclose(*results, atol=1e-6)
