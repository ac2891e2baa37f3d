"""Training crops of one image on the host, with OpenCV and NumPy alone.

Worker processes import this module: it must not import jax.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

from pst_jax.letterbox import Image
from pst_jax.preprocessing import evaluation_crop, resize
from train.data.transforms.color import jitter
from train.data.transforms.randaugment import randaugment
from train.tasks.classification.config import DataConfig

ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_TRIES = 10


def sample_box(
  rng: np.random.Generator, height: int, width: int, min_scale: float
) -> tuple[int, int, int, int]:
  """A random box of the Inception crop, with torchvision's `RandomResizedCrop` as the rule.

  The box covers a share of the area uniform in (min_scale, 1), at an aspect ratio log-uniform in
  (3/4, 4/3). After ten tries that do not fit: the largest centred box within those ratios.

  Returns:
    top, left, height and width in pixels.
  """
  low, high = ASPECT_RATIOS
  for _ in range(CROP_TRIES):
    area = height * width * rng.uniform(min_scale, 1.0)
    ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
    box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
    if 0 < box_height <= height and 0 < box_width <= width:
      top = int(rng.integers(height - box_height + 1))
      left = int(rng.integers(width - box_width + 1))
      return top, left, box_height, box_width
  box_height, box_width = min(height, round(width / low)), min(width, round(height * high))
  return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_resized_crop(
  image: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "size size 3"]:
  """A random box of the image (`sample_box`), resized to the square."""
  top, left, height, width = sample_box(rng, *image.shape[:2], config.min_scale)
  box = image[top : top + height, left : left + width]
  return _resize_box(box, config.image_size)


def _resize_box(box: Image, size: int) -> Image:
  """Bilinear unless a side shrinks by two or more, where that would skip pixels.

  Area averages take several times as long, and evaluation alone needs them to be exact.
  """
  if max(box.shape[:2]) < 2 * size:
    return cv2.resize(box, (size, size), interpolation=cv2.INTER_LINEAR)
  return resize(box, size, size)


def random_shift(
  image: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "size size 3"]:
  """The whole image as a square, moved by up to max_shift pixels; black where nothing is left."""
  size, most = config.image_size, config.max_shift
  padded = cv2.copyMakeBorder(
    resize(image, size, size), most, most, most, most, cv2.BORDER_CONSTANT
  )
  top, left = rng.integers(2 * most + 1, size=2)
  return padded[top : top + size, left : left + size]


TRAINING_CROPS = {
  "random_resized": random_resized_crop,
  "shift": random_shift,
  "none": lambda image, rng, config: evaluation_crop(image, config.image_size, config.eval_crop),
}


def training_image(
  image: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "size size 3"]:
  """All that the host does to a training image: crop, flip, RandAugment, colour jitter."""
  image = TRAINING_CROPS[config.crop](image, rng, config)
  if config.flip and rng.random() < 0.5:
    image = cv2.flip(image, 1)
  image = randaugment(
    image,
    rng,
    config.randaugment_layers,
    config.randaugment_magnitude,
    config.randaugment_deviation,
  )
  return jitter(image, rng, config.color_jitter) if any(config.color_jitter) else image
