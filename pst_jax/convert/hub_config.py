"""config.json of a repository of the hub: what ours says, and what is taken from timm's.

Ours is the metadata block that the weights carry too, with what a run knows beside them. Whatever
is read of one is checked as the metadata of a file are.
"""

import dataclasses
import os

from pst_jax.convert.formats.pickle_globals import printable
from pst_jax.convert.metadata import SCHEMA_KEY, Metadata, Record
from pst_jax.errors import UserError
from pst_jax.files import finite_or_text

_PLACES = ("run_dir", "data.data_dir")
"""Options that say where things lie on the machine that trained: they are not shared."""


def make(metadata: Metadata, record: Record) -> dict:
  """What config.json says of weights and of their run: plain values for JSON."""
  shared = {name: value for name, value in record.options.items() if name not in _PLACES}
  if "://" not in (start := shared.get("init_from", "")):
    shared |= {"init_from": os.path.basename(start.rstrip("/"))} if start else {}
  return {
    "library_name": "pst_jax",
    "architecture": metadata.model,
    "num_classes": metadata.options["num_classes"],
    **metadata.to_block(),
    "metrics": {name: finite_or_text(value) for name, value in record.metrics.items()},
    "training_config": shared,
  }


def completed(metadata: Metadata, config: dict | None, source: str, model: str | None) -> Metadata:
  """The facts about the weights of a repository, with what its config.json adds.

  Args:
    metadata: what the weights say themselves.
    config: of the repository; None: it has none.
    source: the repository.
    model: the network that the user named; None: none.

  Raises:
    UserError: the two are not of each other; a value cannot be; or the config names a network whose
      weights have the same entries but which computes something else.
  """
  if config is None:
    return metadata
  ours = Metadata.from_block(config)
  if ours is not None:
    if ours != metadata and model is None:
      raise UserError(
        "its config.json and its weights do not belong together: push both again, or give a "
        "revision where they do"
      )
    return metadata
  if metadata.preprocessing is not None or not _is_timms(config):
    return metadata
  if model is None:
    _check_architecture(config, metadata.model)
  names = _class_names(config, metadata.options["num_classes"])
  block = dataclasses.replace(
    metadata, source=source, preprocessing=_preprocessing(config), class_names=names
  ).to_block()
  return Metadata.from_block(block)


def _is_timms(config: dict) -> bool:
  return "architecture" in config and SCHEMA_KEY not in config


def _pretrained(config: dict) -> dict:
  """Where timm keeps what the weights were trained with; its first form had no part for it."""
  part = config.get("pretrained_cfg", config)
  return part if isinstance(part, dict) else {}


def _check_architecture(config: dict, model: str) -> None:
  named = config["architecture"]
  is_changed = bool(config.get("model_args")) or config.get("global_pool", "avg") not in ("avg", "")
  if named != model or is_changed:
    raise UserError(
      f"its config.json says {printable(named) if isinstance(named, str) else 'no architecture'}"
      + (" with options of its own" if is_changed else "")
      + f", and its entries are those of {model}, which may compute something else: if it does "
      f"not, say so with --model {model}"
    )


def _preprocessing(config: dict) -> dict | None:
  """timm's words in ours, with its defaults; None: it says nothing of images."""
  said = _pretrained(config)
  size = said.get("input_size")
  if size is None:
    return None
  is_shape = isinstance(size, list) and len(size) == 3 and all(type(side) is int for side in size)
  if not is_shape or size[1] != size[2]:
    said = f"[{', '.join(map(str, size))}]" if is_shape else "no shape"
    raise UserError(
      f"its config.json says {said} for input_size, but images must be square: give a repository "
      "with [3, S, S]"
    )
  facts = {"image_size": size[-1]} | {
    ours: said.get(theirs, default) for ours, theirs, default in _TIMM
  }
  # How timm resizes, for whoever prepares images elsewhere; here it is always done the same way.
  name = said.get("interpolation")
  return facts | ({"interpolation": name} if isinstance(name, str) else {})


_TIMM = (
  ("eval_crop", "crop_pct", 0.875),
  ("mean", "mean", [0.485, 0.456, 0.406]),
  ("std", "std", [0.229, 0.224, 0.225]),
)
"""(our name, timm's, what timm takes where nothing is said)."""


def _class_names(config: dict, count: int) -> tuple[str, ...] | None:
  names = config.get("label_names", _pretrained(config).get("label_names"))
  is_names = isinstance(names, list) and len(names) == count
  return tuple(names) if is_names and all(type(name) is str for name in names) else None
