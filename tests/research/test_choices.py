"""What is said of the tokens that a rule opens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_weights import small_images, small_weights

from pst_jax import ops
from research.choices import quality


def first_tokens(scores, k, key):
  return jnp.broadcast_to(jnp.arange(k), (*scores.shape[:2], k))


@pytest.fixture(scope="module")
def of_rule():
  weights = small_weights()
  images = small_images(4, 48).astype(np.float32) / 255
  batches = [(images[:2], np.arange(2), np.array([True, True]))]
  batches.append((images[2:], np.arange(2, 4), np.array([True, False])))

  def run(rule, top_k=2):
    return quality(weights.network(top_k=top_k, selection=rule), weights.variables, batches)

  return run


def test_the_oracle_finds_all_that_an_oracle_finds(of_rule):
  assert of_rule("oracle").recall == pytest.approx(1)


@pytest.mark.parametrize("rule", ["top_k", "random", "norm", first_tokens])
def test_a_shared_choice_finds_no_more_than_the_oracle(of_rule, rule):
  assert 0 < of_rule(rule).recall <= 1 + 1e-5


def test_queries_of_their_own_tokens_are_counted_each(of_rule):
  found = of_rule("per_query")
  assert found.recall > 0
  assert 0 <= found.overlap <= 1


def test_top_k_has_all_its_tokens_in_common_with_itself(of_rule):
  assert of_rule("top_k").overlap == pytest.approx(1)


def test_a_choice_that_never_changes_has_the_bits_of_its_number(of_rule):
  assert of_rule(first_tokens, top_k=1).entropy == 0
  assert of_rule(first_tokens, top_k=2).entropy == pytest.approx(1)


def test_all_tokens_are_all_of_the_attention(of_rule):
  found = of_rule("random", top_k=36)
  assert found.recall == pytest.approx(1)
  assert found.overlap == pytest.approx(1)


def test_the_mass_by_query_has_the_mean_that_the_oracle_goes_by():
  from research.choices import _mass_by_query

  rng = np.random.default_rng(0)
  queries, fine = (rng.normal(size=(1, 16, 2, 8)).astype(np.float32) for _ in range(2))
  keys = rng.normal(size=(1, 4, 2, 8)).astype(np.float32)
  tokens = ops.Tokens(queries, keys, keys, fine, (2, 2), (4, 4))
  by_query = jax.jit(_mass_by_query)(tokens)
  np.testing.assert_allclose(by_query.mean(axis=1), ops.fine_attention_mass(tokens)[0], atol=1e-6)
