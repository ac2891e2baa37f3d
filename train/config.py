"""Every option of a run, as frozen dataclasses: the one place where a default lives.

A config file assigns an instance of `Config` to the name `config`; the command line overrides
single fields (`--optim.learning-rate 0.1`). The resolved config is saved in the run folder.
"""

import dataclasses
import difflib
import json
import math
import os
import pathlib
import re
import runpy
import types
import typing
from dataclasses import dataclass, field
from typing import Literal


class ConfigError(ValueError):
  """A user's mistake in a config, a command or the data; one sentence with what to do."""


@dataclass(frozen=True)
class ModelConfig:
  name: str = "resnet18_pst"
  """A name that `python -m pst_jax models` lists."""
  top_k: int = 0
  """Coarse tokens opened by the fine branch while training; the paper trains with 0."""
  width: float = 1.0
  """Multiplies the channels of every layer."""
  stem: Literal["imagenet", "small"] = "imagenet"
  """imagenet: 7x7 stride 2 and max pool; small: 3x3 stride 1, no pool, for 32-pixel images."""
  dropout: float = 0.0
  """Dropout rate before the last layer."""
  dtype: Literal["float32", "bfloat16", "float64"] = "float32"
  """Compute type of convolutions and matmuls; parameters and statistics are float32 or wider."""
  batch_norm_group_size: int | None = None
  """Examples that share BatchNorm statistics; None: the whole global batch."""
  remat: bool = False
  """Recompute each stage in the backward pass: less memory, more time."""
  remat_policy: Literal["nothing", "convolutions"] = "nothing"
  """What remat keeps all the same; with convolutions it repeats none of them."""


@dataclass(frozen=True)
class DataConfig:
  dataset: str = "imagenet2012"
  """A TFDS name prepared as array_record, or `digits` (made on first use), or `synthetic`."""
  data_dir: str = "~/tensorflow_datasets"
  """Folder that holds prepared data sets; a bucket must be mounted as a folder."""
  train_split: str = "train"
  """Split to train on; a slice such as `train[:90%]` is possible."""
  eval_split: str = "validation"
  """Split to evaluate on."""
  image_size: int = 224
  """Side of the square images that the network sees."""
  crop: Literal["random_resized", "shift", "none"] = "random_resized"
  """random_resized: a random box of the image, resized; shift: the whole image, moved by up to
  max_shift pixels; none: as in evaluation."""
  min_scale: float = 0.08
  """Smallest area of a random resized crop, as a share of the image."""
  max_shift: int = 0
  """Largest move of crop=shift, in pixels of the resized image."""
  flip: bool = True
  """Mirror half of the training images left to right."""
  randaugment_layers: int = 0
  """RandAugment: random operations that each training image goes through; 0: none."""
  randaugment_magnitude: float = 9.0
  """RandAugment: strength of the operations, from 0 to 30."""
  color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
  """Largest random change of brightness, contrast, saturation (shares) and hue (of a turn)."""
  erasing: float = 0.0
  """Random erasing: the chance that a box of a training image becomes the mean colour."""
  mixup: float = 0.0
  """Mixup: alpha of the Beta distribution of the share of an image's neighbour; 0: none."""
  cutmix: float = 0.0
  """CutMix: alpha as for mixup; with both, each image takes one of the two; 0: none."""
  on_bad_image: Literal["raise", "skip"] = "raise"
  """A damaged image ends the run, or is replaced by the next good one and named in the log; in
  evaluation skip leaves it out of the count."""
  eval_crop: float = 0.875
  """Evaluation: the short side is resized to image_size / eval_crop, then the centre is cut out."""
  mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
  """Subtracted from each channel (scale 0 to 1) on the device."""
  std: tuple[float, float, float] = (0.229, 0.224, 0.225)
  """Divides each channel after the mean."""
  threads: int = 8
  """Threads that read and decode in each process."""
  workers: int = 0
  """Worker processes that read and decode; 0: threads alone."""
  prefetch: int = 2
  """Batches that wait on the device ahead of the step."""
  synthetic_examples: int = 1024
  """dataset=synthetic: examples of each split."""
  synthetic_classes: int = 1000
  """dataset=synthetic: number of classes."""


@dataclass(frozen=True)
class OptimConfig:
  name: Literal["sgd", "adamw", "lamb"] = "sgd"
  """sgd: with Nesterov momentum, the decay joins the gradient; adamw: the decay is separate; lamb:
  adamw with steps as long as the parameters of a layer are large, for large batches."""
  learning_rate: float = 0.1
  """Peak learning rate, for the global batch as it is (never rescaled)."""
  schedule: Literal["cosine", "step", "constant"] = "cosine"
  """How the learning rate falls after the warm-up."""
  warmup_epochs: float = 0.0
  """Linear rise from 0 to the peak."""
  final_factor: float = 0.0
  """cosine: last learning rate as a share of the peak."""
  step_epochs: tuple[float, ...] = (30.0, 60.0, 80.0)
  """step: epochs after which the learning rate falls."""
  step_factor: float = 0.1
  """step: what the learning rate is multiplied by."""
  momentum: float = 0.9
  """sgd: Nesterov momentum; adamw, lamb: beta 1, the decay of the mean gradient."""
  beta2: float = 0.999
  """adamw, lamb: beta 2, the decay of the mean squared gradient."""
  weight_decay: float = 1e-4
  """Applied to kernels alone: BatchNorm scales and every bias are spared."""
  clip_norm: float | None = None
  """Largest global norm of the gradients; None: no clipping."""


@dataclass(frozen=True)
class CheckpointConfig:
  every_epochs: float = 1.0
  """A checkpoint is saved after every so many epochs, and at the end."""
  keep_latest: int = 2
  """How many of the newest checkpoints stay; the best by top-1 stays as well."""


@dataclass(frozen=True)
class Config:
  run_dir: str = "runs/default"
  """Folder of this run; an existing one is resumed."""
  init_from: str = ""
  """Weights that a new run starts from: a .pt, .pth or .safetensors file, or a folder (another run,
  or what `python -m pst_jax convert` wrote); the head is new if the classes differ."""
  seed: int = 0
  """Decides initial parameters, order of the data, augmentation and dropout."""
  epochs: float = 90.0
  """Length of the run, in passes over the training split; fractions are possible."""
  batch_size: int = 256
  """Examples of a step, over all devices."""
  accumulation_steps: int = 1
  """Micro-batches that a device cuts its share of the batch into; their gradients are summed, with
  the result of the whole batch. Needs model.batch_norm_group_size, which must fit in them."""
  eval_batch_size: int = 256
  """Examples of a batch of evaluation, over all devices; changes nothing but speed and memory."""
  eval_every_epochs: float = 1.0
  """Evaluation comes after every so many epochs, and at the end."""
  eval_top_k: tuple[int, ...] = (0, 8)
  """Evaluate with each of these top_k, from the same parameters; 0: coarse attention alone."""
  label_smoothing: float = 0.0
  """Share of the target that is spread evenly over all classes."""
  ema_decay: float = 0.0
  """Decay of the moving average of parameters that is evaluated; 0: none."""
  fsdp: int = 1
  """Devices over which parameters and optimizer state are split; the rest split the batch alone."""
  log_every: int = 50
  """Steps between two lines of metrics.jsonl."""
  profile_steps: str = ""
  """First and last step to trace with JAX's profiler, such as 10:15, into run_dir/profile."""
  model: ModelConfig = field(default_factory=ModelConfig)
  data: DataConfig = field(default_factory=DataConfig)
  optim: OptimConfig = field(default_factory=OptimConfig)
  checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


# Fields that change neither the result nor the record of a run, so that a resumed run may differ.
RESUME_MAY_CHANGE = frozenset(
  {
    # They change the rounding, as the number of devices does, for which they are chosen.
    "accumulation_steps",
    "eval_batch_size",
    "fsdp",
    "model.remat",
    "model.remat_policy",
    # They change nothing.
    "run_dir",
    "profile_steps",
    "data.data_dir",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.on_bad_image",
    "checkpoint.keep_latest",
  }
)

_POSITIVE = "a finite number above 0", lambda v: 0 < v < math.inf
_NOT_NEGATIVE = "a finite number from 0", lambda v: 0 <= v < math.inf
_SHARE = "a number from 0 to below 1", lambda v: 0 <= v < 1
_RULES = {
  # jax.random.key takes no more bits than these: a higher seed would be the same as a lower one.
  "seed": ("a number from 0 to below 2**32", lambda v: 0 <= v < 2**32),
  "epochs": _POSITIVE,
  "batch_size": _POSITIVE,
  "accumulation_steps": _POSITIVE,
  "eval_batch_size": _POSITIVE,
  "eval_every_epochs": _POSITIVE,
  "eval_top_k": ("one or more numbers from 0", lambda v: len(v) > 0 and min(v) >= 0),
  "label_smoothing": _SHARE,
  "ema_decay": _SHARE,
  "fsdp": _POSITIVE,
  "log_every": _POSITIVE,
  "profile_steps": (
    "empty, or the first and the last step such as 10:15",
    lambda v: not v or len(profile_range(v)) > 0,
  ),
  "model.width": _POSITIVE,
  "data.image_size": _POSITIVE,
  "data.min_scale": ("a number above 0, at most 1", lambda v: 0 < v <= 1),
  "data.max_shift": _NOT_NEGATIVE,
  "data.randaugment_layers": _NOT_NEGATIVE,
  "data.randaugment_magnitude": ("a number from 0 to 30", lambda v: 0 <= v <= 30),
  "data.color_jitter": (
    "finite numbers from 0, the last (hue) at most 0.5",
    lambda v: all(0 <= x < math.inf for x in v) and v[3] <= 0.5,
  ),
  "data.erasing": ("a number from 0 to 1", lambda v: 0 <= v <= 1),
  "data.mixup": _NOT_NEGATIVE,
  "data.cutmix": _NOT_NEGATIVE,
  "data.eval_crop": ("a number above 0, at most 1", lambda v: 0 < v <= 1),
  "data.mean": ("finite numbers", lambda v: all(map(math.isfinite, v))),
  "data.std": ("finite numbers above 0", lambda v: all(0 < x < math.inf for x in v)),
  "data.threads": _POSITIVE,
  "data.workers": _NOT_NEGATIVE,
  "data.prefetch": _POSITIVE,
  "data.synthetic_examples": _POSITIVE,
  "data.synthetic_classes": _POSITIVE,
  "optim.learning_rate": _POSITIVE,
  "optim.warmup_epochs": _NOT_NEGATIVE,
  "optim.final_factor": ("a number from 0 to 1", lambda v: 0 <= v <= 1),
  "optim.step_epochs": ("finite numbers from 0", lambda v: all(0 <= x < math.inf for x in v)),
  "optim.step_factor": _POSITIVE,
  "optim.momentum": _SHARE,
  "optim.beta2": _SHARE,
  "optim.weight_decay": _NOT_NEGATIVE,
  "optim.clip_norm": ("a number above 0, or None", lambda v: v is None or v > 0),
  "checkpoint.every_epochs": _POSITIVE,
  "checkpoint.keep_latest": _POSITIVE,
}


def profile_range(text: str) -> range:
  """The steps of `profile_steps`, the last one included; empty for a text that names none."""
  parts = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text, re.ASCII)
  return range(int(parts[1]), int(parts[2]) + 1) if parts else range(0)


def flatten(config: Config) -> dict:
  """{"batch_size": 256, "model.name": "r18-cls-pst", ...}."""
  flat = {}
  for name, value in dataclasses.asdict(config).items():
    if isinstance(value, dict):
      flat |= {f"{name}.{key}": inner for key, inner in value.items()}
    else:
      flat[name] = value
  return flat


def check(config: Config) -> None:
  """Raises ConfigError for a value of a wrong type, or one that cannot be."""
  _check_types(config)
  values = flatten(config)
  for name, (expected, is_allowed) in _RULES.items():
    if not is_allowed(values[name]):
      raise ConfigError(f"{name} is {values[name]!r}, but it must be {expected}")
  if config.optim.warmup_epochs > config.epochs:
    raise ConfigError(
      f"optim.warmup_epochs is {config.optim.warmup_epochs}, but the run has {config.epochs} "
      "epochs: choose a shorter warm-up or more epochs"
    )
  if config.data.max_shift >= config.data.image_size:
    raise ConfigError(
      f"data.max_shift is {config.data.max_shift}, but it must be less than data.image_size, which "
      f"is {config.data.image_size}"
    )


def _check_types(config, prefix=""):
  for name, kind in typing.get_type_hints(type(config)).items():
    value = getattr(config, name)
    if not _fits(value, kind):
      expected = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
      raise ConfigError(f"{prefix}{name} is {value!r}, but its type must be {expected}")
    if dataclasses.is_dataclass(kind):
      _check_types(value, f"{name}.")


def _fits(value, kind) -> bool:
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    return value in inner
  if origin is types.UnionType:
    return any(_fits(value, each) for each in inner)
  if origin is tuple:
    if not isinstance(value, tuple):
      return False
    inner = inner[:1] * len(value) if inner[-1] is ... else inner
    return len(value) == len(inner) and all(map(_fits, value, inner))
  if isinstance(value, bool):
    return kind is bool
  return isinstance(value, int | float if kind is float else kind)


def load_file(path: str | os.PathLike) -> Config:
  """The `config` of a config file; a bare name such as `digits` means configs/digits.py.

  A config file may itself load another and change it:

  >>> paper = load_file(pathlib.Path(__file__).with_name("imagenet_r50_cls_pst.py"))
  >>> config = dataclasses.replace(paper, seed=1)

  Raises:
    ConfigError: there is no such file, or it holds no config, or one with values that cannot be.
  """
  file = pathlib.Path(path)
  if not file.exists() and file.suffix == "" and len(file.parts) == 1:
    file = pathlib.Path("configs") / f"{path}.py"
  if not file.is_file():
    known = sorted(p.as_posix() for p in pathlib.Path("configs").glob("*.py"))
    raise ConfigError(
      f"config file {path} was not found: give a path such as {', '.join(known) or 'my_config.py'}"
    )
  try:
    config = runpy.run_path(str(file)).get("config")
  except Exception as error:
    raise ConfigError(
      f"config file {file} cannot be run ({type(error).__name__}: {error}): correct it"
    ) from error
  if not isinstance(config, Config):
    raise ConfigError(f"{file} does not assign `config = train.config.Config(...)`: add that line")
  check(config)
  return config


def to_json(config: Config) -> str:
  return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> Config:
  """The config that `to_json` wrote.

  Raises:
    ConfigError: for text that is no config, naming the field.
  """
  try:
    return _from_dict(Config, json.loads(text), "")
  except json.JSONDecodeError as error:
    raise ConfigError(f"the saved config is no valid JSON: {error}") from None


def _from_dict(kind, values, prefix):
  types = typing.get_type_hints(kind)
  if not isinstance(values, dict):
    where = f"{prefix.rstrip('.')} in the saved config" if prefix else "the saved config"
    raise ConfigError(f"{where} is {values!r}, but it must be a table of fields")
  for name in values:
    if name not in types:
      close = difflib.get_close_matches(name, types, n=1) or list(types)
      raise ConfigError(f"the saved config has an unknown field {prefix}{name}: is it {close[0]}?")
  fields = {}
  for name, value in values.items():
    if dataclasses.is_dataclass(types[name]):
      value = _from_dict(types[name], value, f"{prefix}{name}.")
    elif isinstance(value, list):
      value = tuple(value)
    fields[name] = value
  return kind(**fields)


def difference(old: Config, new: Config) -> list[str]:
  """Lines "name: old -> new" of the fields that a resumed run may not change."""
  before, after = flatten(old), flatten(new)
  return [
    f"{name}: {before[name]!r} -> {after[name]!r}"
    for name in after
    if before[name] != after[name] and name not in RESUME_MAY_CHANGE
  ]
