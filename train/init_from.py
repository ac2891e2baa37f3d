"""A run that starts from pretrained weights (`init_from`): what is taken, new, and left."""

import collections

import flax.traverse_util
import numpy as np

from pst_jax.checkpoints.layout import saved_steps
from pst_jax.checkpoints.read import flatten
from pst_jax.convert import io
from pst_jax.errors import UserError
from pst_jax.processes import from_first
from pst_jax.wording import mismatch
from train.run.folder import RunFolder
from train.schema import Config
from train.setup import Setup


def initial_values(setup: Setup) -> tuple[dict[str, np.ndarray], list[str]]:
  """The values that a new run starts with instead of random ones.

  The parts of a network (backbone, neck, and those of the head) are taken whole or not at all. A
  part that the weights lack keeps its random start, and a part that this network lacks is left; so
  a ResNet is the backbone of the same ResNet with PST. What the task calls replaceable, the last
  layer, is new if it has another shape. Everything else must fit.

  Returns:
    {"params/backbone/stem/conv/kernel": array}, and lines that tell what was done; both empty for a
    run that is resumed, or starts from nothing.

  Raises:
    UserError: there are no weights, or they are not of this kind of network.
  """
  config = setup.config
  if not config.init_from or from_first(_is_resumed(config)):
    return {}, []
  source = io.read(config.init_from)
  metadata = source.metadata
  found, expected = source.network().family, setup.model.family
  if found != expected:
    raise UserError(
      f"init_from {config.init_from} holds {metadata.model}, a network of another kind than "
      f"{config.model.name} (its layers have other activations): give weights of the same kind"
    )
  values = flax.traverse_util.flatten_dict(source.variables, sep="/")
  pretrained, wanted = map(_parts, (values, flatten(setup.abstract_state.variables)))
  common = [part for part in wanted if part in pretrained]
  taken = [part for part in common if pretrained[part] == wanted[part]]
  wrong = [part for part in common if part not in {*taken, *setup.task.replaceable}]
  options = metadata.options
  if wrong or not taken:
    sides = (
      {n: side[part][n] for part in wrong for n in side[part]} for side in (wanted, pretrained)
    )
    problem = mismatch(*sides, most=3) or "they have no part in common"
    stem = f"stem {options['stem']}, " if "stem" in options else ""
    raise UserError(
      f"init_from {config.init_from} holds {metadata.model} ({stem}width "
      f"{options.get('width', 1.0):g}), which does not fit {config.model.name}: {problem}; give "
      "weights of the same backbone"
    )
  new = [part for part in wanted if part not in taken]
  left = [part for part in pretrained if part not in taken]
  return {name: values[name] for part in taken for name in pretrained[part]}, [
    f"init_from {config.init_from}: {metadata.model}, {options['num_classes']} classes",
    f"  taken     {_counted(taken, pretrained)}",
    f"  new       {_counted(new, wanted)}",
    f"  not taken {_counted(left, pretrained)}",
  ]


def _is_resumed(config: Config) -> bool:
  return bool(saved_steps(RunFolder(config.run_dir).checkpoints))


def _parts(leaves: dict) -> dict[str, dict[str, tuple]]:
  """{"backbone": {"params/backbone/...": shape, "batch_stats/backbone/...": shape}, ...}."""
  parts = collections.defaultdict(dict)
  for name, leaf in leaves.items():
    _, first, second, *_ = name.split("/")
    parts[f"{first}/{second}" if first == "head" else first][name] = tuple(leaf.shape)
  return dict(parts)


def _counted(parts: list[str], side: dict[str, dict]) -> str:
  return ", ".join(f"{part} ({len(side[part])} entries)" for part in parts) or "nothing"
