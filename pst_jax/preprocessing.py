"""From an image's bytes to what a network evaluates, on the host, with OpenCV and NumPy alone.

The trainer's evaluation and `predict` both prepare images here. Worker processes import this
module: it must not import jax. OpenCV comes with the extra `train`.
"""

import os

import cv2
import numpy as np
from jaxtyping import UInt8

from pst_jax.errors import ImageError, UserError
from pst_jax.image_headers import image_size, is_turned
from pst_jax.letterbox import Image

# Grain's threads and processes are the parallelism; OpenCV's own pool would only compete with them.
cv2.setNumThreads(0)

MAX_PIXELS = 2**26
"""Pixels of the largest image that is decoded, 8192 x 8192: 200 MB of memory in each thread."""

LONGEST_STRIP = 64
"""Of a longer one, in short sides, the centre alone is resized: a strip one pixel wide is a file of
200 bytes, and gigabytes when it is as wide as a network sees it."""

MAX_PIXELS_VARIABLE = "PST_JAX_MAX_PIXELS"
"""The environment variable that says another number, to all commands and their workers."""


def decode(encoded: bytes, max_pixels: int | None = None) -> Image:
  """Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF or PNM as RGB; the header is read first.

  An orientation tag of a camera is ignored, as classifiers are trained. No memory is taken for an
  image of more than `max_pixels` (None: `MAX_PIXELS`, or what the environment says instead).

  Raises:
    ImageError: the bytes are no image, or the image is damaged, cut short or too large.
  """
  return _decode(encoded, max_pixels, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_upright(encoded: bytes, max_pixels: int | None = None) -> Image:
  """`decode`, turned as the EXIF orientation says: boxes are drawn on the image so."""
  return _decode(encoded, max_pixels, cv2.IMREAD_COLOR_RGB)


def _decode(encoded, max_pixels, flags):
  is_known = check_pixels(encoded, max_pixels)
  try:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if is_known else None
  except cv2.error:
    image = None
  if image is None:
    raise ImageError(f"{len(encoded)} bytes that are no complete image")
  return image


def check_pixels(encoded: bytes, max_pixels: int | None = None) -> bool:
  """Whether the header of an image says its size.

  Raises:
    ImageError: it says more pixels than `max_pixels`.
    UserError: the environment's number is none.
  """
  size, most = image_size(encoded), max_pixels or _most_pixels()
  if size is not None and size.pixels > most:
    raise ImageError(
      f"{size.width} x {size.height} pixels, where {most:,} are the most: make it smaller, or set "
      f"{MAX_PIXELS_VARIABLE}"
    )
  return size is not None


def _most_pixels() -> int:
  given = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
  if not (given.isdecimal() and int(given)):
    raise UserError(f"{MAX_PIXELS_VARIABLE} is {given!r}, but it must be a whole number from 1")
  return int(given)


def upright_size(encoded: bytes) -> tuple[int, int]:
  """Height and width of what `decode_upright` returns; JPEG, PNG and BMP are not decoded for it.

  Raises:
    ImageError: the bytes are no image.
  """
  size, turned = image_size(encoded), is_turned(encoded)
  if size is None or turned is None:
    return decode_upright(encoded).shape[:2]
  return (size.width, size.height) if turned else (size.height, size.width)


def resize(image: Image, height: int, width: int) -> UInt8[np.ndarray, "new_height new_width 3"]:
  """Resizes in one pass: area averages when shrinking, which cannot alias, else bilinear."""
  if image.shape[:2] == (height, width):
    return image
  shrinks = height <= image.shape[0] and width <= image.shape[1]
  return cv2.resize(
    image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  )


def evaluation_crop(
  image: Image, image_size: int, eval_crop: float
) -> UInt8[np.ndarray, "size size 3"]:
  """Resizes the short side to image_size / eval_crop, then cuts out the centre.

  Args:
    image: as `decode` returns it.
    image_size: side of the square that is returned, in pixels.
    eval_crop: the square's share of the short side; above 0, at most 1.
  """
  short = round(image_size / eval_crop)
  longest = LONGEST_STRIP * min(image.shape[:2])
  image = _centre(image, *(min(side, longest) for side in image.shape[:2]))
  height, width = image.shape[:2]
  scale = short / min(height, width)
  image = resize(image, max(short, int(height * scale)), max(short, int(width * scale)))
  return _centre(image, image_size, image_size)


def _centre(image: Image, height: int, width: int) -> Image:
  top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
  return image[top : top + height, left : left + width]
