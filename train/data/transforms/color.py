"""Changes of colour of uint8 RGB images by a factor, and the random ones made of them.

As torchvision defines `adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue`,
`adjust_sharpness` and `ColorJitter`, and YOLO's trainers the change of HSV. Worker processes import
this module: it must not import jax.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Image = UInt8[np.ndarray, "height width 3"]

LEVELS = np.arange(256, dtype=np.float64)
HUES = 180  # OpenCV's hue of 8 bits: half degrees
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def map_levels(image: Image, levels: Float[np.ndarray, " 256"]) -> Image:
  """Replaces every value by `levels[value]`, rounded and clipped to 0 ... 255."""
  return cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def brightness(image: Image, factor: float) -> Image:
  """0: black, 1: unchanged."""
  return map_levels(image, LEVELS * factor)


def contrast(image: Image, factor: float) -> Image:
  """0: the mean gray of the image, 1: unchanged."""
  mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
  return map_levels(image, mean + factor * (LEVELS - mean))


def saturation(image: Image, factor: float) -> Image:
  """0: gray, 1: unchanged."""
  gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
  return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def hue(image: Image, shift: float) -> Image:
  """Turns the hue by `shift` of a full circle, -0.5 to 0.5; 0: unchanged but for rounding."""
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
  hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # wraps around, as the circle does
  return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def sharpness(image: Image, factor: float) -> Image:
  """0: smoothed but for the border, 1: unchanged, above: sharpened."""
  smooth = image.copy()
  smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, SMOOTH)[1:-1, 1:-1]
  return cv2.addWeighted(image, factor, smooth, 1 - factor, 0)


# In the order of the numbers of `data.color_jitter`.
JITTER: tuple[Callable[[Image, float], Image], ...] = (brightness, contrast, saturation, hue)


def jitter(
  image: Image, rng: np.random.Generator, strengths: tuple[float, float, float, float]
) -> Image:
  """Brightness, contrast, saturation and hue, changed at random and in random order.

  Args:
    strengths: a factor is uniform in (max(0, 1 - strength), 1 + strength), the shift of the hue in
      (-strength, strength); a change of strength 0 is left out.
  """
  for index in rng.permutation(len(JITTER)):
    strength, change = strengths[index], JITTER[index]
    if strength == 0:
      continue
    low, high = (-strength, strength) if change is hue else (max(0.0, 1 - strength), 1 + strength)
    image = change(image, rng.uniform(low, high))
  return image


def random_hsv(image: Image, rng: np.random.Generator, gains: tuple[float, float, float]) -> Image:
  """Turns the hue, and scales saturation and value, by factors uniform in (-gain, gain)."""
  factors = rng.uniform(-1, 1, 3) * gains
  if not any(gains):
    return image
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  tables = np.ascontiguousarray(hsv_tables(factors).T)[None]  # a column for each channel
  return cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2RGB)


def hsv_tables(factors: tuple[float, float, float]) -> UInt8[np.ndarray, "3 256"]:
  """What each level of hue, saturation and value becomes; grey stays grey."""
  hue = (LEVELS + factors[0] * HUES) % HUES
  saturation = np.clip(LEVELS * (1 + factors[1]), 0, 255)
  saturation[0] = 0
  value = np.clip(LEVELS * (1 + factors[2]), 0, 255)
  return np.stack([hue, saturation, value]).astype(np.uint8)
