"""Rules that pick the coarse tokens which the fine branch opens, by name.

`Selection` says what a rule is given and returns; `check_selection` tries one of your own.
"""

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Protocol

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

from pst_jax.errors import UserError
from pst_jax.ops.attention import accumulation_dtype
from pst_jax.ops.convolution import max_filter
from pst_jax.ops.selection import child_indices, select_top_k

Scores = Float[Array, "batch heads coarse"]
Selected = Int[Array, "batch heads *queries {k}"]
_QUERIES = 256  # whose attention is held at a time


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
  """What the attention of a PST module works with, for rules that look beyond the scores.

  Attributes:
    queries, fine_keys: of the fine map, row after row.
    keys, values: of the coarse map, row after row.
    coarse, fine: height and width of the maps.
  """

  queries: Float[Array, "batch fine heads dim"]
  keys: Float[Array, "batch coarse heads dim"]
  values: Float[Array, "batch coarse heads dim"]
  fine_keys: Float[Array, "batch fine heads dim"]
  coarse: tuple[int, int] = field(metadata={"static": True})
  fine: tuple[int, int] = field(metadata={"static": True})


class Selection(Protocol):
  """A rule that picks `k` coarse tokens for every image and head; write your own as a function.

  A rule with a fourth argument called `tokens` is given `Tokens` in it. It returns different
  indices into the flattened coarse map, of which some, but not all, may be -1: no token. With an
  axis for queries before the last, every query of the fine map opens tokens of its own.

  Each image is looked at alone: where there is a key, a network calls the rule for one image after
  the other (under `jax.vmap`, with a batch of 1), each with a key of its own.
  """

  def __call__(self, scores: Scores, k: int, key: PRNGKeyArray | None) -> Selected: ...


def select_gumbel(scores: Scores, k: int, key: PRNGKeyArray | None) -> Selected:
  """Samples `k` tokens without replacement, with probability softmax(scores).

  The k largest of scores + Gumbel noise are such a sample (Kool et al., arXiv 1903.06059).
  """
  _require(key, "Gumbel")
  return select_top_k(scores + jax.random.gumbel(key, scores.shape, scores.dtype), k)


def select_random(scores: Scores, k: int, key: PRNGKeyArray | None) -> Selected:
  """`k` tokens chosen uniformly without replacement: the baseline that ignores the scores."""
  _require(key, "random")
  return select_top_k(jax.random.uniform(key, scores.shape), k)


def _require(key, rule):
  if key is None:
    raise UserError(
      f"{rule} selection got no PRNG key: call apply(..., rngs={{'selection': jax.random.key(0)}})"
    )


def select_mass(
  scores: Scores, k: int, key: PRNGKeyArray | None = None, *, share: float = 0.5
) -> Selected:
  """The highest scores until softmax(scores) has `share` of its mass, at most `k`.

  Nucleus sampling's set of tokens (Holtzman et al., arXiv 1904.09751), of which all are taken.
  """
  selected = select_top_k(scores, k)
  mass = jnp.take_along_axis(jax.nn.softmax(scores, axis=-1), selected, axis=-1)
  return jnp.where(jnp.cumsum(mass, axis=-1) - mass < share, selected, -1)


def select_spread(scores: Scores, k: int, key: PRNGKeyArray | None, tokens: Tokens) -> Selected:
  """The highest local maxima of the map of scores, then the highest of the rest.

  A token is one if none of its eight neighbours is higher: the suppression of detectors of
  keypoints (DeTone et al., arXiv 1712.07629), so that tokens do not crowd around one peak.
  """
  height, width = tokens.coarse
  maps = rearrange(scores, "b h (y x) -> b y x h", y=height, x=width)
  peaks = rearrange(max_filter(maps, 3) <= maps, "b y x h -> b h (y x)")
  span = jnp.max(scores, axis=-1, keepdims=True) - jnp.min(scores, axis=-1, keepdims=True)
  return select_top_k(jnp.where(peaks, scores, scores - span - 1), k)


def select_norm(scores: Scores, k: int, key: PRNGKeyArray | None, tokens: Tokens) -> Selected:
  """The longest values: what a token adds is its weight times its value.

  Kobayashi et al., "Attention is Not Only a Weight", arXiv 2004.10102.
  """
  norms = jnp.linalg.norm(tokens.values.astype(scores.dtype), axis=-1)
  return select_top_k(jnp.swapaxes(norms, 1, 2), k)


def select_entropy(scores: Scores, k: int, key: PRNGKeyArray | None, tokens: Tokens) -> Selected:
  """The tokens to which undecided queries attend: attention, times the entropy of its query."""

  def entropy(weights):
    return jax.scipy.special.entr(weights).sum(axis=-1)

  return select_top_k(_attention_received(tokens.queries, tokens.keys, entropy), k)


def select_per_query(scores: Scores, k: int, key: PRNGKeyArray | None, tokens: Tokens) -> Selected:
  """For every query the `k` tokens whose product with it is highest.

  Zhao et al., arXiv 1912.11637; the other rules open for all queries what the mean query asks for.
  """
  dtype = accumulation_dtype(tokens.queries.dtype)
  products = jnp.einsum(
    "bnhd,bmhd->bhnm", tokens.queries, tokens.keys, preferred_element_type=dtype
  )
  return select_top_k(products, k)


def select_oracle(scores: Scores, k: int, key: PRNGKeyArray | None, tokens: Tokens) -> Selected:
  """The tokens whose children get most of the attention to the whole fine map.

  What the others try to guess: it costs more than the fine branch saves.
  """
  return select_top_k(fine_attention_mass(tokens), k)


def fine_attention_mass(tokens: Tokens) -> Scores:
  """The share of the attention to the whole fine map that the children of each token get.

  Returns:
    The mean over all queries; sums to 1 over the tokens.
  """
  received = _attention_received(tokens.queries, tokens.fine_keys, lambda weights: 1.0)
  every = jnp.arange(tokens.coarse[0] * tokens.coarse[1])
  index, inside = child_indices(every, tokens.coarse, tokens.fine)
  children = jnp.where(inside, received[..., index], 0)
  return rearrange(children, "b h (m c) -> b h m c", c=4).sum(axis=-1) / tokens.queries.shape[1]


def _attention_received(queries, keys, importance) -> Float[Array, "batch heads keys"]:
  """What each key gets of softmax(q k^T / sqrt(dim)): a sum over queries, times their importance.

  A block of queries at a time: detectors have 6,400 of them.
  """
  count, dtype = queries.shape[1], accumulation_dtype(queries.dtype)
  size = min(count, _QUERIES)
  padding = -count % size
  queries = jnp.pad(queries, ((0, 0), (0, padding), (0, 0), (0, 0)))
  counted = jnp.pad(jnp.ones(count, dtype), (0, padding))

  def add(total, block):
    q, counts = block
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, keys, preferred_element_type=dtype)
    weights = jax.nn.softmax(scores / jnp.sqrt(q.shape[-1]), axis=-1)
    return total + (weights * (importance(weights) * counts)[..., None]).sum(axis=2), None

  shape = (keys.shape[0], keys.shape[2], keys.shape[1])
  blocks = rearrange(queries, "b (i n) h d -> i b n h d", n=size), counted.reshape(-1, size)
  return jax.lax.scan(add, jnp.zeros(shape, dtype), blocks)[0]


SELECTIONS: dict[str, Selection] = {
  "top_k": select_top_k,
  "gumbel": select_gumbel,
  "random": select_random,
  "mass": select_mass,
  "spread": select_spread,
  "norm": select_norm,
  "entropy": select_entropy,
  "per_query": select_per_query,
  "oracle": select_oracle,
}


def find_selection(selection: str | Selection) -> Selection:
  """The rule that a name of `SELECTIONS`, "module:function", or a function stands for.

  Raises:
    UserError: there is no such rule.
  """
  if callable(selection):
    return selection
  if selection in list(SELECTIONS):
    return SELECTIONS[selection]
  problem = ""
  module, _, name = selection.partition(":") if isinstance(selection, str) else ("", "", "")
  if module and name:
    try:
      rule = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
      problem = f" ({error})"
    else:
      if callable(rule):
        return rule
  raise UserError(
    f"selection={selection!r} was given, but it must be one of {', '.join(SELECTIONS)}, "
    f"'module:function', or a function (scores, k, key) -> indices{problem}"
  )


def takes_tokens(rule: Selection) -> bool:
  """Whether a rule has an argument called `tokens`."""
  try:
    return "tokens" in inspect.signature(rule).parameters
  except ValueError:  # a function of C says nothing of its arguments
    return False


def apply_selection(
  rule: Selection, scores: Scores, k: int, key: PRNGKeyArray | None, tokens: Tokens | None
) -> Selected:
  """What a rule returns.

  Raises:
    UserError: that is not what `Selection` says.
  """
  selected = rule(scores, k, key, **({"tokens": tokens} if takes_tokens(rule) else {}))
  batch, heads, _ = scores.shape
  shapes = [(batch, heads, k)]
  if tokens is not None:
    shapes.append((batch, heads, tokens.queries.shape[1], k))
  is_array = hasattr(selected, "dtype")
  if is_array and selected.shape in shapes and jnp.issubdtype(selected.dtype, jnp.integer):
    return selected
  got = jax.typeof(selected) if is_array else f"a {type(selected).__name__}"
  raise UserError(
    f"the selection rule returned {got}, but it must return the indices of the tokens, as "
    f"int[{','.join(map(str, shapes[0]))}]: batch, heads, top_k"
  )
