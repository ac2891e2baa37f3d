"""Trying a rule of selection before a network runs with it."""

import jax
import jax.numpy as jnp
import numpy as np

from pst_jax.errors import UserError
from pst_jax.ops.rules import Selection, Tokens, apply_selection
from pst_jax.ops.selection import token_scores

_IMAGES, _HEADS, _DIM, _K = 3, 2, 8, 5
_COARSE, _FINE = (4, 6), (7, 12)


def check_selection(rule: Selection) -> None:
  """Tries a rule on random tokens: an odd map, and k smaller than and equal to all of them.

  Raises:
    UserError: it cannot be compiled, or returns another shape or type, indices of no token, a token
      twice, no token at all, or something else for an image beside others than for it alone.
  """
  coarse = _COARSE[0] * _COARSE[1]
  examples = _examples()
  alone = [jax.tree.map(lambda x, i=i: x[i : i + 1], examples) for i in range(_IMAGES)]
  for k in (_K, coarse):

    def run(each, key, k=k):
      scores, tokens = each
      return apply_selection(rule, scores, k, key, tokens)

    _check_indices(np.concatenate([_compiled(run, each) for each in alone]).reshape(-1, k), coarse)
    try:
      beside = run(examples, None)
    except Exception:
      # It ran with a key: a random rule, which networks call for one image after the other.
      continue
    if not np.array_equal(beside, np.concatenate([run(each, None) for each in alone])):
      raise UserError(
        "the rule opens other tokens of an image where others are beside it: look along the last "
        "axis alone, so that a batch may be split over devices"
      )


def _examples():
  rng = np.random.default_rng(0)

  def normal(size):
    shape = (_IMAGES, size[0] * size[1], _HEADS, _DIM)
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  tokens = Tokens(normal(_FINE), normal(_COARSE), normal(_COARSE), normal(_FINE), _COARSE, _FINE)
  return token_scores(tokens.queries, tokens.keys), tokens


def _compiled(run, each):
  try:
    return np.asarray(jax.jit(run)(each, jax.random.key(0)))
  except UserError:
    raise
  except Exception as error:  # whatever is raised in a function of somebody else's
    reason = str(error).strip().partition("\n")[0]
    raise UserError(
      f"the rule does not run under jax.jit ({type(error).__name__}: {reason}): use jax.numpy on "
      "its arguments, and no value of theirs in Python's if or while"
    ) from error


def _check_indices(rows, coarse):
  least, most = rows.min(), rows.max()
  if least < -1 or most >= coarse:
    wrong = least if least < -1 else most
    raise UserError(
      f"the rule returned the index {wrong}, but tokens are 0 to {coarse - 1}, none -1"
    )
  if (rows < 0).all(axis=-1).any():
    raise UserError("the rule opened no token of a head, but it must open at least one")
  for row in rows:
    opened = row[row >= 0].tolist()
    if len(set(opened)) < len(opened):
      raise UserError(f"the rule opened a token twice: {opened}, but all indices must differ")
