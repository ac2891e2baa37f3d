"""The block of facts that travels with weights: what they are, and how images were prepared."""

import dataclasses
import importlib.metadata
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pst_jax.convert.formats.pickle_globals import printable
from pst_jax.errors import UserError

SCHEMA_KEY, SCHEMA = "pst_jax_weights", 1
"""The entry that tells our block from anybody's."""


class Record(NamedTuple):
  """What a run knows of weights beside their metadata.

  Attributes:
    metrics: that it measured of these weights at their step; none: it did not.
    options: of the training, flat by name as the trainer saves them.
  """

  metrics: Mapping[str, float] = types.MappingProxyType({})
  options: Mapping[str, Any] = types.MappingProxyType({})


@dataclass(frozen=True)
class Metadata:
  """Facts about weights.

  Attributes:
    model: a name of `list_models()`.
    options: for `create_model`: {"num_classes": 10, "stem": "small", "width": 0.5} or some of them.
    source: name of the file or folder that they came from first.
    weights: `params`, or `ema` for their moving average.
    step: training steps that led to them; None: unknown.
    top_k: coarse tokens of the fine branch while they were trained.
    preprocessing: how images are prepared, in the words of the trainer's config: for classification
      {"image_size", "eval_crop", "mean", "std"}, for detection {"image_size", "mean", "std"}, the
      last two if need be; None: the source does not say.
    class_names: in the order of the logits; None: the source does not say.
    num_batches_tracked: value of PyTorch's BatchNorm counters.
    versions: of pst_jax, jax and flax, when the block was made.
    task: what the network does.
    selection: the rule that opens the tokens: a name of `ops.SELECTIONS`, or module:function.
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
  task: str = "classification"
  selection: str = "top_k"

  def to_block(self) -> dict:
    """Plain values for JSON."""
    return {SCHEMA_KEY: SCHEMA, **dataclasses.asdict(self)}

  @classmethod
  def from_block(cls, block: Mapping | None) -> "Metadata | None":
    """The facts that `to_block` made; None for a block that is not ours, or no block.

    Raises:
      UserError: it is ours and has a value that cannot be, or is of a later form.
    """
    if block is None or SCHEMA_KEY not in block:
      return None
    if block[SCHEMA_KEY] != SCHEMA:
      raise UserError(
        f"its metadata block has form {printable(str(block[SCHEMA_KEY]))}, but this version of "
        f"pst_jax reads form {SCHEMA}: get a newer pst_jax"
      )
    values = {f.name: block[f.name] for f in dataclasses.fields(cls) if f.name in block}
    values = {"task": "classification", "selection": "top_k"} | values  # the first did not say
    for name, is_allowed in _RULES.items():
      if name not in values or not is_allowed(values[name]):
        raise UserError(f"its metadata block is damaged ({name}): get the file again")
    for option in values["options"].keys() - _OPTIONS:
      # One more could let a file choose what is imported and run.
      raise UserError(
        f"its metadata have the option {printable(repr(option))} of model "
        f"{printable(values['model'])}, but weights have {', '.join(_OPTIONS)} alone: get the file "
        "again, or a newer pst_jax"
      )
    if not _is_preprocessing(values["preprocessing"], values["task"]):
      raise UserError("its metadata block is damaged (preprocessing): get the file again")
    if values["class_names"] is not None:
      values["class_names"] = tuple(values["class_names"])
    return cls(**values)

  @classmethod
  def of_run(
    cls,
    config: Mapping,
    num_classes: int,
    *,
    source: str,
    step: int,
    weights: str,
    class_names: Sequence[str] | None = None,
    task: str = "classification",
  ) -> "Metadata":
    """The facts about a checkpoint of a training run.

    Args:
      config: {"model.name": "resnet50", "data.image_size": 224, ...}, the run's options.
      source: name of the run.
      weights: `ema` if the run keeps moving averages.
      task: decides which options are about preprocessing.

    Raises:
      UserError: the config lacks an option, or has one that cannot be.
    """
    keys = (*_PREPROCESSING.get(task, ()), *_MORE_PREPROCESSING.get(task, ()))
    travel = _TRAVEL.get(task, ("stem", "width"))
    block = {
      "model": config.get("model.name"),
      "options": {"num_classes": num_classes}
      | {name: config[f"model.{name}"] for name in travel if f"model.{name}" in config},
      "source": source,
      "weights": weights,
      "step": step,
      "top_k": config.get("model.top_k"),
      "preprocessing": {
        key: _plain(config[f"data.{key}"]) for key in keys if f"data.{key}" in config
      },
      "class_names": None if class_names is None else list(class_names),
      "num_batches_tracked": step,
      "versions": versions(),
      "task": task,
      "selection": config.get("model.selection", "top_k"),
    }
    return cls.from_block({SCHEMA_KEY: SCHEMA} | block)


def check_task(metadata: Metadata) -> None:
  """Raises UserError for one of the library's tasks that is not that of the network."""
  from pst_jax.models import task_of  # late, so that the commands' --help answers at once

  known, task = task_of(metadata.model), metadata.task
  if task in _PREPROCESSING and task != known:
    raise UserError(
      f"its metadata say task {task}, but {metadata.model} is a network for {known}: give the "
      "right task, or get the file again"
    )


def described(metadata: Metadata) -> str:
  """What weights are, in one line."""
  options = metadata.options
  parts = [metadata.model, f"{options['num_classes']} classes"]
  stem, width = options.get("stem", "imagenet"), options.get("width", 1.0)
  if (stem, width) != ("imagenet", 1.0):
    form = [f"stem {stem}"] if "stem" in options else []
    parts += [*form, f"width {width:g}"]
  if metadata.step is not None:
    parts.append(f"step {metadata.step}")
  return ", ".join([*parts, {"ema": "moving average", "params": "parameters"}[metadata.weights]])


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
  # A whole number in JSON may be too large for a float.
  return is_list and all(type(x) in (int, float) and not abs(x) > 1e30 for x in value)


_OPTIONS = ("num_classes", "stem", "width")
_TRAVEL = {"detection": ("width",)}
"""Options of a task's models, beside the number of classes, that change their parameters."""


def _is_options(value):
  return (
    type(value) is dict
    and _is_count(value.get("num_classes"))
    and _is_text(value.get("stem", ""))
    and type(value.get("width", 1)) in (int, float)
    and 0 < value.get("width", 1) < 1000  # infinity is JSON to Python, and no shape
  )


_PREPROCESSING = {
  "classification": ("image_size", "eval_crop", "mean", "std"),
  "detection": ("image_size",),
}
"""What must be known to prepare an image for a task."""
_MORE_PREPROCESSING = {"detection": ("mean", "std")}
"""What may be known: of a detector they are 0 and 1 unless it says otherwise."""
_PREPROCESSING_RULES = {
  "image_size": lambda v: type(v) is int and 0 < v < 100_000,
  "eval_crop": lambda v: type(v) in (int, float),
  "mean": lambda v: _is_numbers(v, 3),
  "std": lambda v: _is_numbers(v, 3),
}


def _is_preprocessing(value, task):
  return value is None or (
    all(map(_is_text, value))
    and set(_PREPROCESSING.get(task, ())) <= value.keys()
    and all(rule(value[name]) for name, rule in _PREPROCESSING_RULES.items() if name in value)
  )


def _plain(value):
  return list(value) if isinstance(value, tuple) else value


_RULES = {
  "model": _is_text,
  "options": _is_options,
  "source": _is_text,
  "weights": lambda v: v in ("params", "ema"),
  "step": lambda v: v is None or _is_count(v),
  "top_k": _is_count,
  "preprocessing": lambda v: v is None or type(v) is dict,
  "class_names": lambda v: v is None or (isinstance(v, list | tuple) and all(map(_is_text, v))),
  "num_batches_tracked": _is_count,
  "versions": lambda v: type(v) is dict and all(map(_is_text, (*v, *v.values()))),
  "task": _is_text,
  "selection": _is_text,
}
