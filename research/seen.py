"""What the PST modules of a network see and choose."""

import math
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from pst_jax import ops


def seen_by_modules(
  model, variables: dict, images, positions=None, seed: int = 0
) -> dict[tuple[str, ...], dict[str, Any]]:
  """By the path of each module: what `PyramidSparseAttention` hands out, the fine map's too."""
  rule = ops.find_selection(model.selection)

  def seeing(scores, k, key, tokens):
    """The rule, as one that takes tokens: for those alone modules hand out the fine map's."""
    return ops.apply_selection(rule, scores, k, key, tokens)

  _, sown = model.clone(selection=seeing).apply(
    variables,
    images,
    positions=positions,
    mutable=["intermediates"],
    rngs={"selection": jax.random.key(seed)},
  )
  modules = {}
  for (*module, name), (value,) in flatten_dict(sown["intermediates"]).items():
    modules.setdefault(tuple(module), {})[name] = value
  return {module: seen for module, seen in modules.items() if "selected" in seen}


def sides(keys, queries) -> list[tuple[int, int]]:
  """Height and width of the coarse and of the fine map: images are square when evaluated."""
  return [(math.isqrt(each.shape[1]),) * 2 for each in (keys, queries)]
