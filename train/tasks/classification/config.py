"""The options that only classification has; `train/config.py` shows them to config files."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pst_jax import limits
from pst_jax.ranges import ABOVE_0_UP_TO_1, FRACTION, FROM_0, UP_TO_1, Range
from train import schema

MAGNITUDE = Range("a number from 0 to 30", lambda v: 0 <= v <= 30)


@dataclass(frozen=True)
class DataConfig(schema.DataConfig):
  """Labelled images, and what augmentation does to them."""

  crop: Literal["random_resized", "shift", "none"] = "random_resized"
  """random_resized: a random box of the image, resized; shift: the whole image, moved by up to
  max_shift pixels; none: as in evaluation."""
  min_scale: Annotated[float, ABOVE_0_UP_TO_1] = 0.08
  """Smallest area of a random resized crop, as a share of the image."""
  max_shift: Annotated[int, FROM_0] = 0
  """Largest move of crop=shift, in pixels of the resized image."""
  flip: bool = True
  """Mirror half of the training images left to right."""
  randaugment_layers: Annotated[int, limits.LAYERS] = 0
  """RandAugment: random operations that each training image goes through; 0: none."""
  randaugment_magnitude: Annotated[float, MAGNITUDE] = 9.0
  """RandAugment: strength of the operations, from 0 to 30."""
  randaugment_deviation: Annotated[float, MAGNITUDE] = 0.0
  """RandAugment: standard deviation of the strength, operation by operation; 0: alike."""
  color_jitter: Annotated[
    tuple[float, float, float, float],
    Range(
      "numbers from 0 to 10, the last (hue) at most 0.5",
      lambda v: all(0 <= x <= 10 for x in v) and v[3] <= 0.5,
    ),
  ] = (0.0, 0.0, 0.0, 0.0)
  """Largest random change of brightness, contrast, saturation (shares) and hue (of a turn)."""
  erasing: Annotated[float, UP_TO_1] = 0.0
  """Random erasing: the chance that a box of a training image becomes the mean colour."""
  mixup: Annotated[float, limits.BETA_ALPHA] = 0.0
  """Mixup: alpha of the Beta distribution of the share of an image's neighbour; 0: none."""
  cutmix: Annotated[float, limits.BETA_ALPHA] = 0.0
  """CutMix: alpha as for mixup; with both, each image takes one of the two; 0: none."""
  eval_crop: Annotated[float, limits.EVAL_CROP] = 0.875
  """Evaluation: the short side is resized to image_size / eval_crop, then the centre is cut out."""

  def contradiction(self) -> str | None:
    if self.max_shift >= self.image_size:
      return (
        f"data.max_shift is {self.max_shift}, but it must be less than data.image_size, which is "
        f"{self.image_size}"
      )
    return super().contradiction()


@dataclass(frozen=True)
class Config(schema.Config):
  """A run of classification."""

  task: ClassVar[str] = "classification"

  loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
  """cross_entropy: one class is right; binary_cross_entropy: each class is its own question."""
  label_smoothing: Annotated[float, FRACTION] = 0.0
  """Share of the target that is spread evenly over all classes."""
  data: DataConfig = field(default_factory=DataConfig)
