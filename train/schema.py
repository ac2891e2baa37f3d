"""The options that every task has, as frozen dataclasses.

A default, its range and its help stand here once. A task adds its own by subclassing `Config` and
`DataConfig` (see `train/tasks/classification/config.py`); `train/config.py` is what config files
import.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pst_jax import limits
from pst_jax.ranges import FRACTION, UP_TO_1, Range
from train.run.observers.names import LOGGERS


@dataclass(frozen=True)
class ModelConfig:
  """The network: every field but the name is an option of `pst_jax.create_model`."""

  name: str = "resnet18_pst"
  """A name that `python -m pst_jax models` lists."""
  top_k: int = 0
  """Coarse tokens opened by the fine branch while training; the paper trains with 0."""
  selection: str = "top_k"
  """Rule that picks these tokens: a name of pst_jax.ops.SELECTIONS, or module:function."""
  coarse_implementation: str = "auto"
  """How coarse attention is computed: one of pst_jax.ops.COARSE_IMPLEMENTATIONS; auto takes what is
  fastest on the platform at the size of the maps."""
  width: Annotated[float, limits.WIDTH] = 1.0
  """Multiplies the channels of every layer."""
  stem: Literal["imagenet", "small"] = "imagenet"
  """imagenet: 7x7 stride 2 and max pool; small: 3x3 stride 1, no pool, for 32-pixel images."""
  dropout: float = 0.0
  """Dropout rate before the last layer."""
  stochastic_depth: float = 0.0
  """ResNets: how often training leaves the last block out of an example, and others less often."""
  dtype: Literal["float32", "bfloat16", "float64"] = "float32"
  """Compute type of convolutions and matmuls; parameters and statistics are float32 or wider."""
  batch_norm_group_size: int | None = None
  """Examples that share BatchNorm statistics; None: the whole global batch."""
  remat: bool = False
  """Recompute each stage in the backward pass: less memory, more time."""
  remat_policy: Literal["nothing", "convolutions"] = "nothing"
  """What remat keeps all the same; with convolutions it repeats none of them."""


MEANS = Range("numbers from -1e+06 to 1e+06", lambda v: all(abs(x) <= 1e6 for x in v))
STDS = Range(f"{limits.STD.text}, each", lambda v: all(map(limits.STD.allows, v)))


@dataclass(frozen=True)
class DataConfig:
  """The images, whatever is to be said of them."""

  dataset: str = "imagenet2012"
  """A TFDS name prepared as array_record, or `digits` (made on first use), or `synthetic`."""
  data_dir: str = "~/tensorflow_datasets"
  """Folder that holds prepared data sets, also in a bucket: gs://BUCKET/data."""
  train_split: str = "train"
  """Split to train on; a slice such as `train[:90%]` is possible."""
  eval_split: str = "validation"
  """Split to evaluate on."""
  image_size: Annotated[int, limits.IMAGE_SIZE] = 224
  """Side of the square images that the network sees."""
  on_bad_image: Literal["raise", "skip"] = "raise"
  """A damaged image ends the run, or is replaced by the next good one and named in the log; in
  evaluation skip leaves it out of the count."""
  mean: Annotated[tuple[float, float, float], MEANS] = (0.485, 0.456, 0.406)
  """Subtracted from each channel (scale 0 to 1) on the device."""
  std: Annotated[tuple[float, float, float], STDS] = (0.229, 0.224, 0.225)
  """Divides each channel after the mean."""
  space_to_depth: bool = False
  """Training images go to the devices with their blocks of 2x2 pixels as 12 channels: the same
  numbers and weights, and less memory traffic in the first convolution of a TPU."""
  threads: Annotated[int, limits.THREADS] = 8
  """Threads that read and decode in each process."""
  workers: Annotated[int, limits.WORKERS] = 0
  """Worker processes that read and decode; 0: threads alone."""
  prefetch: Annotated[int, limits.PREFETCH] = 2
  """Batches that wait on the device ahead of the step."""
  synthetic_examples: Annotated[int, limits.EXAMPLES] = 1024
  """dataset=synthetic: examples of each split."""
  synthetic_classes: Annotated[int, limits.CLASSES] = 1000
  """dataset=synthetic: number of classes."""

  def contradiction(self) -> str | None:
    """A sentence about values that training cannot combine, if there are such."""
    if self.space_to_depth and self.image_size % 2:
      size = f"data.image_size is {self.image_size}"
      return f"{size}, but data.space_to_depth needs an even number: change one of them"
    return None


@dataclass(frozen=True)
class OptimConfig:
  """Optimizer and learning rate."""

  name: Annotated[
    str,
    Range(
      "sgd, adamw, lamb, or module:function",
      lambda v: v in ("sgd", "adamw", "lamb") or re.fullmatch(r"[\w.]+:\w+", v),
    ),
  ] = "sgd"
  """sgd: with Nesterov momentum, the decay joins the gradient; adamw: the decay is separate; lamb:
  adamw with steps as long as the parameters of a layer are large, for large batches;
  module:function, such as optax.contrib:muon: what that makes of the rate and `options`."""
  options: dict[str, bool | int | float | str] = field(default_factory=dict, hash=False)
  """Keyword arguments of a function that `name` names; momentum, beta2 and weight_decay are for the
  three optimizers above alone."""
  learning_rate: Annotated[float, limits.RATE] = 0.1
  """Peak learning rate, for the global batch as it is (never rescaled)."""
  schedule: Literal["cosine", "step", "constant", "linear"] = "cosine"
  """How the learning rate falls after the warm-up; linear: in one step after each epoch, on a line
  from the peak at the start of the run."""
  warmup_epochs: Annotated[float, limits.EPOCHS_OR_0] = 0.0
  """Linear rise from 0 to the peak."""
  warmup_min_steps: Annotated[int, limits.STEPS_OR_0] = 0
  """The warm-up takes at least so many steps, if there is one."""
  warmup_bias_lr: Annotated[float, limits.DECAY] = 0.0
  """Where the learning rate of biases starts in the warm-up; everything else starts from 0."""
  warmup_momentum: Annotated[
    float | None, Range("a number from 0 to below 1, or None", lambda v: v is None or 0 <= v < 1)
  ] = None
  """sgd: momentum at the first step, rising on a line during the warm-up; None: as later."""
  final_factor: Annotated[float, UP_TO_1] = 0.0
  """cosine, linear: last learning rate as a share of the peak."""
  step_epochs: Annotated[
    tuple[float, ...],
    Range(f"{limits.EPOCHS_OR_0.text}, each", lambda v: all(map(limits.EPOCHS_OR_0.allows, v))),
  ] = (30.0, 60.0, 80.0)
  """step: epochs after which the learning rate falls."""
  step_factor: Annotated[float, limits.RATE] = 0.1
  """step: what the learning rate is multiplied by."""
  momentum: Annotated[float, FRACTION] = 0.9
  """sgd: Nesterov momentum; adamw, lamb: beta 1, the decay of the mean gradient."""
  beta2: Annotated[float, FRACTION] = 0.999
  """adamw, lamb: beta 2, the decay of the mean squared gradient."""
  weight_decay: Annotated[float, limits.DECAY] = 1e-4
  """Applied to kernels alone: BatchNorm scales and every bias are spared."""
  clip_norm: Annotated[
    float | None,
    Range(f"{limits.CLIP_NORM.text}, or None", lambda v: v is None or limits.CLIP_NORM.allows(v)),
  ] = None
  """Largest global norm of the gradients; None: no clipping."""
  clip_epsilon: Annotated[float, limits.DECAY] = 0.0
  """Added to the norm before clipping divides by it; PyTorch's is 1e-6."""
  trainable: tuple[str, ...] = ()
  """Patterns of parameters that learn, such as */gate*; alone, they leave the rest as it is."""
  frozen: tuple[str, ...] = ()
  """Patterns of parameters that stay as they are, but for those that `trainable` names."""


@dataclass(frozen=True)
class CheckpointConfig:
  """When checkpoints are saved, and which stay."""

  every_epochs: Annotated[float, limits.EPOCHS] = 1.0
  """A checkpoint is saved after every so many epochs, and at the end."""
  keep_latest: Annotated[int, limits.KEPT] = 2
  """How many of the newest checkpoints stay; the best by the first evaluation stays as well."""
  read_back: bool = False
  """Each checkpoint is read and compared when it is on the disk, for which the run waits; the one
  before it stays until then."""


@dataclass(frozen=True)
class EvalConfig:
  """One evaluation: how the fine branch is set, with the same parameters as the others."""

  top_k: Annotated[int, limits.TOP_K] = 0
  """Coarse tokens opened by the fine branch; 0: coarse attention alone."""
  selection: str = ""
  """Rule that picks them, as for model.selection; empty: the model's."""


def evals_of(top_k: tuple[int, ...]) -> dict[str, EvalConfig]:
  """An evaluation for each top_k, under the names `k0`, `k8`, ..."""
  return {f"k{k}": EvalConfig(k) for k in top_k}


def profile_range(text: str) -> range:
  """The steps of `profile_steps`, the last one included; empty for a text that names none."""
  parts = re.fullmatch(r"([1-9]\d{0,9}):([1-9]\d{0,9})", text, re.ASCII)
  return range(int(parts[1]), int(parts[2]) + 1) if parts else range(0)


@dataclass(frozen=True)
class Config:
  """A run; a task's own `Config` is a subclass that says `task`, as `registry.find` takes it."""

  task: ClassVar[str]

  run_dir: str = "runs/default"
  """Folder of this run; an existing one is resumed."""
  init_from: str = ""
  """Weights that a new run starts from: a .pt, .pth or .safetensors file, a folder (another run,
  or what `python -m pst_jax convert` wrote), or hf://owner/name; the head is new if the classes
  differ."""
  # jax.random.key takes no more bits than these: a higher seed would be the same as a lower one.
  seed: Annotated[int, Range("a number from 0 to below 2**32", lambda v: 0 <= v < 2**32)] = 0
  """Decides initial parameters, order of the data, augmentation and dropout."""
  epochs: Annotated[float, limits.EPOCHS] = 90.0
  """Length of the run, in passes over the training split; fractions are possible."""
  batch_size: Annotated[int, limits.BATCH] = 256
  """Examples of a step, over all devices."""
  accumulation_steps: Annotated[int, limits.BATCH] = 1
  """Micro-batches that a device cuts its part of the batch into; their gradients are summed, with
  the result of the whole batch. Needs model.batch_norm_group_size, which must fit in them."""
  eval_batch_size: Annotated[int, limits.BATCH] = 256
  """Examples of a batch of evaluation, over all devices; changes nothing but speed and memory."""
  eval_every_epochs: Annotated[float, limits.EPOCHS] = 1.0
  """Evaluation comes after every so many epochs, and at the end."""
  evals: dict[str, EvalConfig] = field(
    default_factory=lambda: {"coarse": EvalConfig(0), "fine": EvalConfig(8)}, hash=False
  )
  """The evaluations by name, all of the same parameters; the first decides the best checkpoint."""
  eval_top_k: Annotated[
    tuple[int, ...] | None,
    Range(
      f"one or more of {limits.TOP_K.text}",
      lambda v: v is None or (len(v) > 0 and all(map(limits.TOP_K.allows, v))),
    ),
  ] = None
  """Instead of evals: evaluate with each of these top_k, under the names k0, k8 and so on."""
  ema_decay: Annotated[float, FRACTION] = 0.0
  """Decay of the moving average of parameters that is evaluated; 0: none."""
  ema_ramp: Annotated[float, limits.DECAY] = 0.0
  """The decay after n steps is ema_decay * (1 - exp(-n / ema_ramp)); 0: it is at most
  n / (9 + n)."""
  fsdp: Annotated[int, limits.DEVICES] = 1
  """Devices over which parameters and optimizer state are split; the rest split the batch alone."""
  check_replicas_every: Annotated[int, limits.STEPS_OR_0] = 0
  """Steps between two comparisons of what devices hold alike; a difference ends the run, with the
  name of the device. 0: never."""
  log_every: Annotated[int, limits.STEPS] = 50
  """Steps between two lines of metrics.jsonl."""
  loggers: Annotated[tuple[str, ...], LOGGERS] = ("tensorboard",)
  """Where the log goes beside metrics.jsonl: tensorboard, wandb, mlflow, trackio, module:class."""
  profile_steps: Annotated[
    str,
    Range(
      "empty, or the first and the last step such as 10:15", lambda v: not v or profile_range(v)
    ),
  ] = ""
  """First and last step to trace with JAX's profiler, such as 10:15, into run_dir/profile."""
  model: ModelConfig = field(default_factory=ModelConfig)
  data: DataConfig = field(default_factory=DataConfig)
  optim: OptimConfig = field(default_factory=OptimConfig)
  checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

  def __post_init__(self):
    top_k = self.eval_top_k
    # What is no tuple of such numbers stays for `check` to name.
    if isinstance(top_k, tuple) and top_k and all(isinstance(k, int) and k >= 0 for k in top_k):
      object.__setattr__(self, "evals", evals_of(top_k))
      object.__setattr__(self, "eval_top_k", None)

  def contradiction(self) -> str | None:
    """A sentence about values that training cannot combine, if there are such."""
    if self.optim.warmup_epochs > self.epochs:
      return (
        f"optim.warmup_epochs is {self.optim.warmup_epochs}, but the run has {self.epochs} epochs: "
        "choose a shorter warm-up or more epochs"
      )
    return self.data.contradiction()

  def bound_to_length(self) -> str | None:
    """What makes steps depend on the run's length, as half a sentence; None: `epochs` may grow."""
    falls = self.optim.schedule in ("cosine", "linear")
    return f"optim.schedule {self.optim.schedule} falls until the end of the run" if falls else None


# Fields that are about a process and its machine: those of one run may differ in them.
PROCESSES_MAY_DIFFER = frozenset(
  {
    "run_dir",
    "loggers",
    "profile_steps",
    "data.data_dir",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.on_bad_image",
  }
)
# Fields that change neither the result nor the record of a run, so that a resumed run may differ.
RESUME_MAY_CHANGE = PROCESSES_MAY_DIFFER | {
  # They change the rounding, as the number of devices does, for which they are chosen.
  "accumulation_steps",
  "eval_batch_size",
  "fsdp",
  "model.coarse_implementation",
  "model.remat",
  "model.remat_policy",
  "data.space_to_depth",
  # They change nothing: rows without a box count for nothing, and too few rows end a run.
  "data.max_boxes",
  "checkpoint.keep_latest",
  "checkpoint.read_back",
  "check_replicas_every",
}
