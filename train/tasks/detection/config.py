"""The options that only detection has.

Worker processes import this module: it must not import jax.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pst_jax.ranges import ABOVE_0, FRACTION, FROM_0, UP_TO_1, WHOLE_FROM_1, Range
from train import schema

# YOLO11's, for batches of 128: three groups of parameters, each with a warm-up of its own.
RECIPE = schema.OptimConfig(
  name="sgd",
  learning_rate=0.01,
  schedule="linear",
  final_factor=0.01,
  warmup_epochs=3.0,
  warmup_min_steps=100,
  warmup_bias_lr=0.1,
  warmup_momentum=0.8,
  momentum=0.937,
  weight_decay=1e-3,
  clip_norm=10.0,
  clip_epsilon=1e-6,
)


@dataclass(frozen=True)
class DataConfig(schema.DataConfig):
  """Images with boxes; augmentation as YOLO11n is trained."""

  dataset: str = "coco2017"
  """A data set with boxes as `python -m train.prepare coco | yolo | voc` writes it, TFDS's
  `coco/2017` in array_record form, or `digit_scenes` (made on first use)."""
  image_size: Annotated[
    int, Range("a positive multiple of 32", lambda v: v > 0 and v % 32 == 0)
  ] = 640
  """Side of the square that the network sees."""
  max_boxes: Annotated[int, ABOVE_0] = 300
  """Most boxes of an image, mosaics included; an image with more is an error."""
  mosaic: Annotated[float, UP_TO_1] = 1.0
  """Chance that a training image is put together from four."""
  copy_paste: Annotated[float, UP_TO_1] = 0.1
  """Share of the objects with outlines whose mirror images are pasted."""
  scale: Annotated[float, FRACTION] = 0.5
  """A training image is scaled by a factor from 1 - scale to 1 + scale."""
  translate: Annotated[float, UP_TO_1] = 0.1
  """A training image is moved by up to this share of its side."""
  mixup: Annotated[float, UP_TO_1] = 0.0
  """Chance that a training image is blended with another."""
  hsv: Annotated[
    tuple[float, float, float],
    Range("finite numbers from 0", lambda v: all(0 <= x < math.inf for x in v)),
  ] = (0.015, 0.7, 0.4)
  """Largest random change of hue (of a turn), saturation and value (shares)."""
  flip: Annotated[float, UP_TO_1] = 0.5
  """Chance that a training image is mirrored left to right."""
  close_mosaic_epochs: Annotated[float, FROM_0] = 10.0
  """The last epochs, in which mosaic, copy-paste and mixup are left out."""
  mean: Annotated[tuple[float, float, float], schema.MEANS] = (0.0, 0.0, 0.0)
  """Subtracted from each channel (scale 0 to 1) on the device."""
  std: Annotated[tuple[float, float, float], schema.STDS] = (1.0, 1.0, 1.0)
  """Divides each channel after the mean."""


@dataclass(frozen=True)
class SuppressionConfig:
  """Which boxes an evaluation keeps: non-maximum suppression as COCO's figures are taken with."""

  score_threshold: Annotated[float, UP_TO_1] = 0.001
  """Boxes of lower scores are left out."""
  iou_threshold: Annotated[float, UP_TO_1] = 0.7
  """A box that overlaps a better one of its class by more is left out."""
  max_detections: Annotated[int, WHOLE_FROM_1] = 300
  """Most boxes of an image; COCO's metric looks at the best 100 of each class."""
  multi_label: bool = True
  """Whether a box may be found for several classes."""


@dataclass(frozen=True)
class Config(schema.Config):
  """A run of detection; the optimizer's defaults are the authors' for COCO."""

  task: ClassVar[str] = "detection"

  box_gain: Annotated[float, FROM_0] = 7.5
  """What the loss of boxes (1 - CIoU) is multiplied by."""
  class_gain: Annotated[float, FROM_0] = 0.5
  """What the cross-entropy of classes is multiplied by."""
  dfl_gain: Annotated[float, FROM_0] = 1.5
  """What the distribution focal loss of the sides is multiplied by."""
  model: schema.ModelConfig = field(default_factory=lambda: schema.ModelConfig("yolo11n-pst"))
  data: DataConfig = field(default_factory=DataConfig)
  optim: schema.OptimConfig = field(default_factory=lambda: RECIPE)
  suppression: SuppressionConfig = field(default_factory=SuppressionConfig)

  def contradiction(self) -> str | None:
    from pst_jax.models import list_models, task_of

    name = self.model.name
    if name in list_models() and task_of(name) != self.task:
      detectors = [each for each in list_models() if task_of(each) == self.task]
      return f"model.name is {name}, which is no detector: choose one of {', '.join(detectors)}"
    return super().contradiction()

  def bound_to_length(self) -> str | None:
    return super().bound_to_length() or "data.close_mosaic_epochs counts from the end of the run"
