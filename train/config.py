"""Every option of a run, as frozen dataclasses: the one place where a default lives.

A config file assigns an instance of `Config` to the name `config`; the command line overrides single
fields (`--optim.learning-rate 0.1`). The resolved config is saved as `config.json` in the run folder.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal


class ConfigError(ValueError):
  """A user's mistake in a config, a command or the data; its text is one sentence with what to do."""


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
  """Examples that share BatchNorm statistics; none: the whole global batch."""
  remat: bool = False
  """Recompute each stage in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class DataConfig:
  dataset: str = "imagenet2012"
  """A TFDS name prepared as array_record, or `digits` (made on first use), or `synthetic`."""
  data_dir: str = "~/tensorflow_datasets"
  """Folder that holds prepared data sets."""
  train_split: str = "train"
  eval_split: str = "validation"
  image_size: int = 224
  """Side of the square images that the network sees."""
  crop: Literal["random_resized", "shift", "none"] = "random_resized"
  """Training crop; shift: the whole image, moved by up to `max_shift` pixels; none: as in evaluation."""
  min_scale: float = 0.08
  """Smallest area of a random resized crop, as a share of the image."""
  max_shift: int = 0
  """Largest move of crop=shift, in pixels of the resized image."""
  flip: bool = True
  """Mirror half of the training images left to right."""
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
  name: Literal["sgd", "adamw"] = "sgd"
  learning_rate: float = 0.1
  """Peak learning rate, for the global batch as it is (never rescaled)."""
  schedule: Literal["cosine", "step", "constant"] = "cosine"
  warmup_epochs: float = 0.0
  """Linear rise from 0 to the peak."""
  final_factor: float = 0.0
  """cosine: last learning rate as a share of the peak."""
  step_epochs: tuple[float, ...] = (30.0, 60.0, 80.0)
  """step: epochs after which the learning rate is multiplied by step_factor."""
  step_factor: float = 0.1
  momentum: float = 0.9
  """sgd: momentum (Nesterov); adamw: beta 1."""
  beta2: float = 0.999
  """adamw: beta 2."""
  weight_decay: float = 1e-4
  """Applied to kernels alone: BatchNorm scales and every bias are spared."""
  clip_norm: float | None = None
  """Largest global norm of the gradients; none: no clipping."""


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
  seed: int = 0
  """Decides initial parameters, order of the data, augmentation and dropout."""
  epochs: float = 90.0
  batch_size: int = 256
  """Examples of a step, over all devices."""
  eval_batch_size: int = 256
  eval_every_epochs: float = 1.0
  eval_top_k: tuple[int, ...] = (0, 8)
  """Evaluate with each of these top_k, from the same parameters; 0: coarse attention alone."""
  label_smoothing: float = 0.0
  ema_decay: float = 0.0
  """Decay of the moving average of parameters that is evaluated; 0: none."""
  fsdp: int = 1
  """Devices over which parameters and optimizer state are split; the rest split the batch alone."""
  log_every: int = 50
  """Steps between two lines of metrics.jsonl."""
  model: ModelConfig = field(default_factory=ModelConfig)
  data: DataConfig = field(default_factory=DataConfig)
  optim: OptimConfig = field(default_factory=OptimConfig)
  checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def to_dict(config: Config) -> dict:
  """The config as nested plain values, ready for JSON."""
  return dataclasses.asdict(config)
