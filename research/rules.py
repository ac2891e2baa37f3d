"""Rules of selection outside the library; an example for one of your own.

python -m train CONFIG --model.top-k 4 --model.selection research.rules:select_strongest
python -m train.evaluate RUN --top-k 1 4 --selection top_k research.rules:select_strongest
python -m pst_jax predict RUN image.jpg --top-k 4 --selection research.rules:select_strongest
"""

import jax.numpy as jnp

from pst_jax import ops


def select_strongest(scores, k, key, tokens):
  """What any one query wants most: the largest product over the queries, not their mean."""
  products = jnp.einsum("bnhd,bmhd->bhnm", tokens.queries, tokens.keys)
  return ops.select_top_k(products.max(axis=2), k)
