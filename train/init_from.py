"""A run that starts from given weights (`init_from`): what is taken, what is new, what is left."""

import collections

import flax.traverse_util
import numpy as np

from train import weights
from train.checkpoint_files import saved_steps
from train.checkpoint_read import flatten, listed
from train.config import ConfigError
from train.run_folder import RunFolder
from train.setup import Setup

_REPLACEABLE = "head/linear"
"""The last layer: its shape depends on the number of classes."""


def initial_values(setup: Setup) -> tuple[dict[str, np.ndarray], list[str]]:
  """The values that a new run starts with instead of random ones.

  The parts of a network (backbone, neck, head/conv, head/linear) are taken whole or not at all. A
  part that the weights lack keeps its random start, and a part that this network lacks is left; so
  a ResNet is the backbone of the same ResNet with PST. The last layer is new if it has another
  shape. Everything else must fit.

  Returns:
    {"params/backbone/stem/conv/kernel": array}, and lines that tell what was done; both empty for a
    run that is resumed, or starts from nothing.

  Raises:
    ConfigError: there are no weights, or they are not of this kind of network.
  """
  config = setup.config
  if not config.init_from or saved_steps(RunFolder(config.run_dir).checkpoints):
    return {}, []
  source = weights.read(config.init_from)
  metadata = source.metadata
  found, expected = source.network().family, setup.model.family
  if found != expected:
    raise ConfigError(
      f"init_from {config.init_from} holds {metadata.model}, a network of another kind than "
      f"{config.model.name} (its layers have other activations): give weights of the same kind"
    )
  given = _parts(flax.traverse_util.flatten_dict(source.variables, sep="/"))
  wanted = _parts(flatten(setup.abstract_state.variables))
  taken = [part for part in wanted if part in given and _shapes(given[part], wanted[part])]
  differing = [part for part in wanted if part in given and part not in taken]
  wrong = [part for part in differing if part != _REPLACEABLE]
  options = metadata.options
  if wrong or not taken:
    raise ConfigError(
      f"init_from {config.init_from} holds {metadata.model} (stem {options['stem']}, width "
      f"{options['width']:g}), which does not fit {config.model.name}: "
      f"{_difference(wrong, given, wanted)}; give weights of the same backbone"
    )
  values = {name: value for part in taken for name, value in given[part].items()}
  new = [part for part in wanted if part not in taken]
  left = [part for part in given if part not in taken]
  return values, [
    f"init_from {config.init_from}: {metadata.model}, {options['num_classes']} classes",
    f"  taken     {_counted(taken, given)}",
    f"  new       {_counted(new, wanted)}",
    f"  not taken {_counted(left, given)}",
  ]


def _parts(leaves: dict) -> dict[str, dict]:
  """{"backbone": {"params/backbone/...": leaf, "batch_stats/backbone/...": leaf}, ...}."""
  parts = collections.defaultdict(dict)
  for name, leaf in leaves.items():
    _, first, second, *_ = name.split("/")
    parts[f"{first}/{second}" if first == "head" else first][name] = leaf
  return dict(parts)


def _shapes(given: dict, wanted: dict) -> bool:
  return {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in wanted.items()}


def _difference(parts, given, wanted) -> str:
  if not parts:
    return "they have no part in common"
  given, wanted = (
    {k: v for part in parts for k, v in side[part].items()} for side in (given, wanted)
  )
  problems = {
    "missing": [name for name in wanted if name not in given],
    "left over": [name for name in given if name not in wanted],
    "of another shape": [
      f"{name} {given[name].shape} instead of {wanted[name].shape}"
      for name in wanted
      if name in given and given[name].shape != wanted[name].shape
    ],
  }
  return "; ".join(
    f"{len(names)} {problem}: {listed(names, 3)}" for problem, names in problems.items() if names
  )


def _counted(parts: list[str], side: dict[str, dict]) -> str:
  return ", ".join(f"{part} ({len(side[part])} entries)" for part in parts) or "nothing"
