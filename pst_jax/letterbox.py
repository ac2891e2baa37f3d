"""Letterbox: an image fitted into a fixed size without changing its shape, on a grey ground.

After the loading and letterboxing that YOLO's trainers have in common: resized bilinearly, the
spare room shared by both sides, filled with the grey level 114. The trainer and `predict` both use
it. Worker processes import this module: it must not import jax.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

Image = UInt8[np.ndarray, "height width 3"]
Boxes = Float[np.ndarray, "boxes 4"]

GREY = 114


class Letterbox(NamedTuple):
  """Where an image goes: resized to height x width, with so many grey pixels on each side."""

  height: int
  width: int
  top: int
  bottom: int
  left: int
  right: int


def letterbox_geometry(height: int, width: int, size: tuple[int, int]) -> Letterbox:
  """Fits an image of height x width into `size` (height, width); a smaller one is resized up."""
  ratio = min(size[0] / height, size[1] / width)
  new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
  spare_height, spare_width = size[0] - new_height, size[1] - new_width
  # A tenth of a pixel, so that halves round to the same side always.
  return Letterbox(
    new_height,
    new_width,
    top=round(spare_height / 2 - 0.1),
    bottom=round(spare_height / 2 + 0.1),
    left=round(spare_width / 2 - 0.1),
    right=round(spare_width / 2 + 0.1),
  )


def resize(image: Image, height: int, width: int) -> Image:
  """Bilinear, without averaging: as detectors are trained."""
  if image.shape[:2] == (height, width):
    return image
  import cv2  # late, so that geometry needs no OpenCV

  return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def letterbox(image: Image, geometry: Letterbox) -> Image:
  """Resizes an image and surrounds it with grey, as `letterbox_geometry` found."""
  import cv2

  image = resize(image, geometry.height, geometry.width)
  # The last four are in OpenCV's order: top, bottom, left, right.
  return cv2.copyMakeBorder(image, *geometry[2:], cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))


def loaded_size(height: int, width: int, side: int) -> tuple[int, int]:
  """Height and width with the long side at `side`, and the short one rounded up."""
  longest = max(height, width)
  return -(-height * side // longest), -(-width * side // longest)


def evaluation_geometry(height: int, width: int, size: int) -> Letterbox:
  """Where an image goes for evaluation: its long side at `size`, grey around it, one fixed size."""
  return letterbox_geometry(*loaded_size(height, width, size), (size, size))


def map_back(
  boxes: Boxes,
  scale: float | tuple[float, float],
  pad: tuple[float, float],
  height: int,
  width: int,
) -> Boxes:
  """Boxes on a letterboxed image as boxes on the image itself, cut at its edges.

  Args:
    boxes: x1, y1, x2, y2 in pixels of the letterboxed image.
    scale: pixels of the letterboxed image for one pixel of the image, along x and y: the short
      side is rounded to whole pixels, so that they differ.
    pad: grey pixels on the left and at the top.
    height, width: of the image.
  """
  moved = (np.asarray(boxes) - np.tile(pad, 2)) / np.tile(np.broadcast_to(scale, 2), 2)
  return np.clip(moved, 0, np.array([width, height, width, height], moved.dtype))
