"""Decoding, cropping and resizing of one image on the host, with OpenCV and NumPy alone.

Worker processes import this module: it must not import jax.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

from train.config import DataConfig
from train.data.color import jitter
from train.data.randaugment import randaugment

# Grain's threads and processes are the parallelism; OpenCV's own pool would only compete with them.
cv2.setNumThreads(0)

DECODE_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_TRIES = 10


def decode(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
  """Decodes JPEG, PNG or any other format that OpenCV reads, as RGB.

  Raises:
    ValueError: the bytes are no image, or the image is damaged or cut short.
  """
  try:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), DECODE_FLAGS)
  except cv2.error:
    image = None
  if image is None:
    raise ValueError(f"{len(encoded)} bytes that are no complete image")
  return image


def resize(
  image: UInt8[np.ndarray, "height width 3"], height: int, width: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
  """Resizes in one pass: area averages when shrinking, which cannot alias, else bilinear."""
  if image.shape[:2] == (height, width):
    return image
  shrinks = height <= image.shape[0] and width <= image.shape[1]
  return cv2.resize(
    image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  )


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


def evaluation_crop(
  image: UInt8[np.ndarray, "height width 3"], config: DataConfig
) -> UInt8[np.ndarray, "size size 3"]:
  """Resizes the short side to image_size / eval_crop, then cuts out the centre."""
  size = config.image_size
  short = round(size / config.eval_crop)
  height, width = image.shape[:2]
  scale = short / min(height, width)
  image = resize(image, max(short, int(height * scale)), max(short, int(width * scale)))
  top, left = (round((side - size) / 2) for side in image.shape[:2])
  return image[top : top + size, left : left + size]


def random_resized_crop(
  image: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "size size 3"]:
  """A random box of the image (`sample_box`), resized to the square."""
  top, left, height, width = sample_box(rng, *image.shape[:2], config.min_scale)
  box = image[top : top + height, left : left + width]
  return resize(box, config.image_size, config.image_size)


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
  "none": lambda image, rng, config: evaluation_crop(image, config),
}


def training_image(
  image: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "size size 3"]:
  """All that the host does to a training image: crop, flip, RandAugment, colour jitter."""
  image = TRAINING_CROPS[config.crop](image, rng, config)
  if config.flip and rng.random() < 0.5:
    image = cv2.flip(image, 1)
  image = randaugment(image, rng, config.randaugment_layers, config.randaugment_magnitude)
  return jitter(image, rng, config.color_jitter) if any(config.color_jitter) else image
