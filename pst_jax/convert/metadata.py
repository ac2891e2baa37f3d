"""The block of facts that travels with weights: what they are, and how images were prepared."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pst_jax.convert.pickle_globals import printable

SCHEMA_KEY, SCHEMA = "pst_jax_weights", 1
"""The entry that tells our block from anybody's."""


@dataclass(frozen=True)
class Metadata:
  """Facts about weights.

  Attributes:
    model: a name of `list_models()`.
    options: {"num_classes", "stem", "width"}, for `create_model`.
    source: name of the file or folder that they came from first.
    weights: `params`, or `ema` for their moving average.
    step: training steps that led to them; None: unknown.
    top_k: coarse tokens of the fine branch while they were trained.
    preprocessing: {"image_size", "eval_crop", "mean", "std"} as in the trainer's config; None: the
      source does not say.
    class_names: in the order of the logits; None: the source does not say.
    num_batches_tracked: value of PyTorch's BatchNorm counters.
    versions: of pst_jax, jax and flax, when the block was made.
  """

  model: str
  options: dict
  source: str
  weights: Literal["params", "ema"] = "params"
  step: int | None = None
  top_k: int = 0
  preprocessing: dict | None = None
  class_names: tuple[str, ...] | None = None
  num_batches_tracked: int = 0
  versions: dict = field(default_factory=lambda: versions())

  def to_block(self) -> dict:
    """Plain values for JSON."""
    return {SCHEMA_KEY: SCHEMA, **dataclasses.asdict(self)}

  @classmethod
  def from_block(cls, block: Mapping | None) -> "Metadata | None":
    """The facts that `to_block` made; None for a block that is not ours, or no block.

    Raises:
      ValueError: it is ours and has a value that cannot be, or is of a later form.
    """
    if block is None or SCHEMA_KEY not in block:
      return None
    if block[SCHEMA_KEY] != SCHEMA:
      raise ValueError(
        f"its metadata block has form {printable(str(block[SCHEMA_KEY]))}, but this version of "
        f"pst_jax reads form {SCHEMA}: get a newer pst_jax"
      )
    values = {f.name: block[f.name] for f in dataclasses.fields(cls) if f.name in block}
    for name, is_allowed in _RULES.items():
      if name not in values or not is_allowed(values[name]):
        raise ValueError(f"its metadata block is damaged ({name}): get the file again")
    if values["class_names"] is not None:
      values["class_names"] = tuple(values["class_names"])
    return cls(**values)


def versions() -> dict[str, str]:
  """Versions of the libraries that this process runs."""
  import pst_jax  # late: it imports this package

  installed = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
  return {"pst_jax": pst_jax.__version__, **installed}


def _is_count(value):
  return type(value) is int and 0 <= value < 2**63


def _is_text(value):
  return type(value) is str


def _is_numbers(value, length):
  is_list = isinstance(value, list | tuple) and len(value) == length
  return is_list and all(type(x) in (int, float) for x in value)


def _is_options(value):
  return (
    type(value) is dict
    and value.keys() == {"num_classes", "stem", "width"}
    and _is_count(value["num_classes"])
    and _is_text(value["stem"])
    and type(value["width"]) in (int, float)
    and 0 < value["width"] < 1000  # infinity is JSON to Python, and no shape
  )


def _is_preprocessing(value):
  return (
    type(value) is dict
    and value.keys() == {"image_size", "eval_crop", "mean", "std"}
    and type(value["image_size"]) is int
    and 0 < value["image_size"] < 100_000
    and type(value["eval_crop"]) in (int, float)
    and _is_numbers(value["mean"], 3)
    and _is_numbers(value["std"], 3)
  )


_RULES = {
  "model": _is_text,
  "options": _is_options,
  "source": _is_text,
  "weights": lambda v: v in ("params", "ema"),
  "step": lambda v: v is None or _is_count(v),
  "top_k": _is_count,
  "preprocessing": lambda v: v is None or _is_preprocessing(v),
  "class_names": lambda v: v is None or (isinstance(v, list | tuple) and all(map(_is_text, v))),
  "num_batches_tracked": _is_count,
  "versions": lambda v: type(v) is dict and all(map(_is_text, (*v, *v.values()))),
}
