"""Which parameters learn: patterns over their names."""

import difflib
import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

from pst_jax.errors import UserError


class Match(NamedTuple):
  """A pattern, whether what it matches is trained, and the parameters that it decides on."""

  pattern: str
  is_trained: bool
  names: tuple[str, ...]


def matches(params: Any, trainable: tuple[str, ...], frozen: tuple[str, ...]) -> list[Match]:
  """What each pattern decides on; the first that matches a name wins, `trainable` before `frozen`.

  A pattern is a shell's (`*`, `?`, `[...]`) over the whole name, such as "backbone/stem/*" or
  "*/gate*"; `*` crosses slashes. Of the parameters shapes will do.

  Raises:
    UserError: a pattern matches no parameter.
  """
  names = _names(params)
  decided, found = set(), []
  for patterns, is_trained_ in ((trainable, True), (frozen, False)):
    for pattern in patterns:
      own = fnmatch.filter(names, pattern)
      if not own:
        raise UserError(_no_match("trainable" if is_trained_ else "frozen", pattern, names))
      found.append(Match(pattern, is_trained_, tuple(n for n in own if n not in decided)))
      decided.update(own)
  return found


def is_trained(params: Any, trainable: tuple[str, ...], frozen: tuple[str, ...]) -> Any:
  """A tree like `params` of True where a parameter is trained.

  What no pattern matches is trained, unless there are patterns of `trainable` alone.

  Raises:
    UserError: a pattern matches no parameter, or nothing is left to train.
  """
  decided = {
    name: match.is_trained for match in matches(params, trainable, frozen) for name in match.names
  }
  rest = bool(frozen) or not trainable
  flags = [decided.get(name, rest) for name in _names(params)]
  if not any(flags):
    raise UserError(
      f"optim.frozen {frozen} leaves no parameter to train: name some in optim.trainable, or "
      "freeze less"
    )
  return jax.tree.unflatten(jax.tree.structure(params), flags)


def frozen_norms(
  params: Any, trainable: tuple[str, ...], frozen: tuple[str, ...]
) -> frozenset[tuple[str, ...]]:
  """Paths of the BatchNorm layers of which no parameter is trained."""
  if not (trainable or frozen):
    return frozenset()
  flags = flatten_dict(is_trained(params, trainable, frozen))
  norms = {path[:-1] for path in flags if path[-1] == "scale"}
  learning = {path[:-1] for path, learns in flags.items() if learns}
  return frozenset(norms - learning)


def with_running_statistics(norms: frozenset[tuple[str, ...]]) -> Callable:
  """For `flax.linen.intercept_methods`: these BatchNorm layers work as in evaluation."""

  def interceptor(call, arguments, options, context):
    if context.method_name == "__call__" and context.module.path in norms:
      x, _ = arguments
      return call(x, False)
    return call(*arguments, **options)

  return interceptor


def learning_of(variables: dict, trainable: tuple[str, ...], frozen: tuple[str, ...]) -> dict:
  """A tree like `variables` of True where a parameter is trained or a statistic moves."""
  params = variables["params"]
  if not (trainable or frozen):
    return jax.tree.map(lambda _: True, variables)
  norms = frozen_norms(params, trainable, frozen)
  moves = jax.tree_util.tree_map_with_path(
    lambda path, _: tuple(key.key for key in path[:-1]) not in norms, variables["batch_stats"]
  )
  return {"params": is_trained(params, trainable, frozen), "batch_stats": moves}


def described(params: Any, trainable: tuple[str, ...], frozen: tuple[str, ...]) -> list[str]:
  """Lines for the log: every pattern with every parameter that it decides on, and the sum.

  No line if there is no pattern.
  """
  if not (trainable or frozen):
    return []
  lines = []
  for match in matches(params, trainable, frozen):
    word = "trains" if match.is_trained else "freezes"
    lines.append(f"{match.pattern} {word} {len(match.names)} parameters")
    lines += [f"  {name}" for name in match.names]
  flags = jax.tree.leaves(is_trained(params, trainable, frozen))
  sizes = [leaf.size for leaf in jax.tree.leaves(params)]
  trained = sum(size for size, flag in zip(sizes, flags, strict=True) if flag)
  return [*lines, f"{trained:,} of {sum(sizes):,} numbers are trained"]


def _names(params) -> list[str]:
  """Of the parameters, in the order of the tree's leaves."""
  return ["/".join(path) for path in sorted(flatten_dict(params))]


def _no_match(option, pattern, names):
  # Compared with the ends of names too: "gate_kernel" is near "neck/pst/gate_kernel".
  ends = {"/".join(name.split("/")[i:]): name for name in names for i in range(name.count("/") + 1)}
  close = difflib.get_close_matches(pattern, [*names, *ends], n=6, cutoff=0.3)
  near = list(dict.fromkeys(ends.get(name, name) for name in close))[:3]
  return (
    f"optim.{option} has the pattern {pattern!r}, which matches no parameter: the closest are "
    f"{', '.join(near or names[:3])}"
  )
