"""How good the tokens are that a rule opens, beside those of an oracle."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pst_jax import ops
from research.seen import seen_by_modules, sides


class Quality(NamedTuple):
  """Of a rule, as the mean over images, heads and PST modules.

  Attributes:
    recall: of the attention to the whole fine map, what the opened children have, as a share of
      what the oracle's have; above 1 where each query opens tokens of its own.
    overlap: share of `select_top_k`'s tokens that it opens too.
    entropy: bits that say which token is opened, over all images: 0 if it is always the same one.
  """

  recall: float
  overlap: float
  entropy: float


def quality(model, variables: dict, batches: Iterable[tuple], seed: int = 0) -> Quality:
  """Of the rule and `top_k` of `model`.

  Args:
    batches: (images as the network takes them, their positions in the split, a mask of those that
      count).
    seed: of a random rule.
  """
  step = jax.jit(lambda *batch: _sums(model, variables, seed, *batch))
  sums = [jax.device_get(step(*batch)) for batch in batches]
  totals = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *sums)
  modules = [
    Quality(
      total["recall"] / total["count"], total["overlap"] / total["count"], _bits(total["use"])
    )
    for total in totals.values()
  ]
  return Quality(*np.mean(modules, axis=0).tolist())


def _bits(use) -> float:
  """Mean over the heads of the entropy of how often each token was opened."""
  shares = use / use.sum(axis=-1, keepdims=True)
  return float(-np.where(shares > 0, shares * np.log2(np.maximum(shares, 1e-30)), 0).sum(-1).mean())


def _sums(model, variables, seed, images, positions, mask):
  names = ("selected", "queries", "keys", "fine_keys")
  return {
    "/".join(module): _of_module(mask, *(seen[name] for name in names))
    for module, seen in sorted(seen_by_modules(model, variables, images, positions, seed).items())
  }


def _of_module(mask, selected, queries, keys, fine_keys):
  maps = sides(keys, queries)

  def of_image(parts):
    selected, counts, *parts = parts
    q, k, fine = (part[None] for part in parts)
    mass = _mass_by_query(ops.Tokens(q, k, k, fine, *maps))
    best = ops.select_top_k(mass.mean(axis=1), selected.shape[-1])
    # [heads, queries or 1, tokens]
    opened = _hits(selected if selected.ndim == 3 else selected[:, None], k.shape[1])
    wanted = _hits(ops.select_top_k(ops.token_scores(q, k), selected.shape[-1])[0], k.shape[1])
    got = (mass * opened).sum(axis=-1).mean(axis=-1)
    most = jnp.take_along_axis(mass.mean(axis=1), best, axis=-1).sum(axis=-1)
    common = (opened * wanted[:, None]).sum(axis=-1).mean(axis=-1) / selected.shape[-1]
    found = {
      "recall": (got / most).mean(),
      "overlap": common.mean(),
      "use": opened.mean(axis=1),
      "count": jnp.ones(()),
    }
    return jax.tree.map(lambda x: x * counts, found)

  found = jax.lax.map(of_image, (selected, mask.astype(queries.dtype), queries, keys, fine_keys))
  return jax.tree.map(lambda x: x.sum(axis=0), found)


def _hits(selected, tokens: int):
  """1 where a token is among those selected, before the last axis; -1 is no token."""
  return jax.nn.one_hot(selected, tokens).sum(axis=-2)


def _mass_by_query(tokens: ops.Tokens):
  """`ops.fine_attention_mass` of one image, of every query: [heads, queries, coarse]."""

  def of_query(query):
    alone = ops.Tokens(
      query[None, None], tokens.keys, tokens.values, tokens.fine_keys, tokens.coarse, tokens.fine
    )
    return ops.fine_attention_mass(alone)[0]

  return jnp.moveaxis(jax.vmap(of_query)(tokens.queries[0]), 0, 1)
