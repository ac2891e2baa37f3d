"""RandAugment: a few operations, chosen at random for each image, all of one given strength.

After Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search
space", arXiv 1909.13719: its list of 14 operations, each chosen with probability 1/14. The paper
does not give the range of each; those here are torchvision's (`transforms.RandAugment`), in which
every operation grows stronger with the magnitude, and of which torchvision's own default is 2
layers of magnitude 9. The scale is 0 to 30; timm's `rand-m9`, on a scale of 0 to 10, is 27 here.

Worker processes import this module: it must not import jax.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from train.data.transforms.color import (
  LEVELS,
  Image,
  brightness,
  contrast,
  map_levels,
  saturation,
  sharpness,
)

MAX_MAGNITUDE = 30
TRANSLATE_SHARE = 150 / 331  # AutoAugment's 150 pixels of a 331-pixel image


def warp(image: Image, source_of: list[list[float]]) -> Image:
  """Takes each pixel (x, y) of the result from `source_of @ (x, y, 1)`; black from outside."""
  height, width = image.shape[:2]
  return cv2.warpAffine(
    image,
    np.array(source_of, np.float64),
    (width, height),
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_CONSTANT,
  )


def shear_x(image: Image, slope: float) -> Image:
  """Moves each row by slope x its distance from the top."""
  return warp(image, [[1, slope, 0], [0, 1, 0]])


def shear_y(image: Image, slope: float) -> Image:
  """Moves each column by slope x its distance from the left."""
  return warp(image, [[1, 0, 0], [slope, 1, 0]])


def translate_x(image: Image, share: float) -> Image:
  """Moves the image to the right by whole pixels, a share of its width."""
  return warp(image, [[1, 0, -int(share * image.shape[1])], [0, 1, 0]])


def translate_y(image: Image, share: float) -> Image:
  """Moves the image down by whole pixels, a share of its height."""
  return warp(image, [[1, 0, 0], [0, 1, -int(share * image.shape[0])]])


def rotate(image: Image, degrees: float) -> Image:
  """Turns the image counter-clockwise about its centre."""
  height, width = image.shape[:2]
  centre = ((width - 1) / 2, (height - 1) / 2)
  # OpenCV's matrix maps source to result; the way back is a turn by the opposite angle.
  return warp(image, cv2.getRotationMatrix2D(centre, -degrees, 1))


def posterize(image: Image, dropped_bits: float) -> Image:
  """Clears the lowest bits of every value."""
  return image & np.uint8(0xFF << round(dropped_bits) & 0xFF)


def solarize(image: Image, strength: float) -> Image:
  """Inverts the values from 256 - strength on."""
  return map_levels(image, np.where(256 - strength <= LEVELS, 255 - LEVELS, LEVELS))


def auto_contrast(image: Image) -> Image:
  """Stretches each channel to the full range 0 ... 255; a channel of one value stays."""

  def stretch(channel):
    low, high, _, _ = cv2.minMaxLoc(channel)
    return np.floor((LEVELS - low) * 255 / (high - low)) if high > low else LEVELS

  return cv2.merge([map_levels(channel, stretch(channel)) for channel in cv2.split(image)])


def equalize(image: Image) -> Image:
  """Spreads the values of each channel evenly, by Pillow's `ImageOps.equalize`."""

  def spread(channel):
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (channel.size - counts[counts.nonzero()[0][-1]]) // 255
    return (np.cumsum(counts) - counts + step // 2) // step if step else LEVELS

  return cv2.merge([map_levels(channel, spread(channel)) for channel in cv2.split(image)])


class Operation(NamedTuple):
  """One operation of the table.

  Attributes:
    apply: (image, value) -> image.
    strongest: the value at magnitude 30; it is 0, no change, at magnitude 0.
    signed: whether the value is negated half of the time.
  """

  apply: Callable[[Image, float], Image]
  strongest: float
  signed: bool


OPERATIONS = {
  "identity": Operation(lambda image, value: image, 0, False),
  "auto_contrast": Operation(lambda image, value: auto_contrast(image), 0, False),
  "equalize": Operation(lambda image, value: equalize(image), 0, False),
  "rotate": Operation(rotate, 30, True),
  "solarize": Operation(solarize, 256, False),
  "color": Operation(lambda image, value: saturation(image, 1 + value), 0.9, True),
  "posterize": Operation(posterize, 4, False),
  "contrast": Operation(lambda image, value: contrast(image, 1 + value), 0.9, True),
  "brightness": Operation(lambda image, value: brightness(image, 1 + value), 0.9, True),
  "sharpness": Operation(lambda image, value: sharpness(image, 1 + value), 0.9, True),
  "shear_x": Operation(shear_x, 0.3, True),
  "shear_y": Operation(shear_y, 0.3, True),
  "translate_x": Operation(translate_x, TRANSLATE_SHARE, True),
  "translate_y": Operation(translate_y, TRANSLATE_SHARE, True),
}


def randaugment(
  image: Image,
  rng: np.random.Generator,
  num_layers: int,
  magnitude: float,
  deviation: float = 0.0,
) -> Image:
  """Applies `num_layers` operations of the table, each chosen anew.

  Their strength is drawn from a normal distribution about `magnitude`, cut to 0 to 30 (timm's
  `mstd`, arXiv 2110.00476); with a deviation of 0 it is `magnitude`.
  """
  operations = list(OPERATIONS.values())
  for _ in range(num_layers):
    operation = operations[rng.integers(len(operations))]
    strength = magnitude
    if deviation:
      strength = min(max(rng.normal(magnitude, deviation), 0.0), MAX_MAGNITUDE)
    value = operation.strongest * strength / MAX_MAGNITUDE
    if operation.signed and rng.random() < 0.5:
      value = -value
    image = operation.apply(image, value)
  return image
