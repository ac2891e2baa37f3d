"""Copy-paste: mirror images of objects are pasted where they hide little of the others.

After G. Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance
segmentation", CVPR 2021, in the form in which the partner is the image's own mirror image. Worker
processes import this module: it must not import jax.
"""

import cv2
import numpy as np
from jaxtyping import Float

from pst_jax.letterbox import Image
from train.data.transforms.boxes import Boxes, Objects, areas, extent, scale_and_move
from train.data.transforms.mosaic import Canvas, View, render

# A mirror image is pasted only if it covers less than this share of every object.
LARGEST_COVER = 0.30
# Corners of outlines are handed to OpenCV in such parts of a pixel.
_FRACTION_BITS = 4


def mirrored_objects(objects: Objects, share: float, width: float) -> Objects:
  """The mirror images to paste: those that cover least, a share of all that cover little enough.

  Args:
    objects: on an image of this width; those without outlines are not pasted.
    share: of the mirror images that may be pasted.
  """
  if not len(objects) or share == 0:
    return objects.take(np.zeros(0, np.int64))
  mirrored = scale_and_move(objects, (-1, 1), (width, 0))
  worst = covered(objects.boxes, mirrored.boxes).max(axis=1)
  has_outline = np.array([len(each) > 0 for each in objects.polygons])
  fitting = np.flatnonzero((worst < LARGEST_COVER) & has_outline)
  order = fitting[np.argsort(worst[fitting], kind="stable")]
  return mirrored.take(order[: round(share * len(order))])


def covered(boxes: Boxes, by: Boxes) -> Float[np.ndarray, "by boxes"]:
  """The share of each box that each of the others covers."""
  low = np.maximum(boxes[None, :, :2], by[:, None, :2])
  high = np.minimum(boxes[None, :, 2:], by[:, None, 2:])
  common = np.prod(np.clip(high - low, 0, None), axis=2)
  return common / np.maximum(areas(boxes), 1e-9)


def paste(image: Image, canvas: Canvas, view: View, pasted: Objects) -> None:
  """Draws mirror images of objects of a canvas into what is seen of it."""
  seen = scale_and_move(pasted, (view.scale, view.scale), (view.move_x, view.move_y))
  for polygons in seen.polygons:
    box = np.clip(np.add(extent(polygons), (-1, -1, 2, 2)), 0, view.side).astype(int)
    left, top, right, bottom = box.tolist()
    if left >= right or top >= bottom:
      continue
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for points in polygons:
      outline = np.round((points - (left, top)) * 2**_FRACTION_BITS).astype(np.int32)
      cv2.fillPoly(mask, [outline], 1, shift=_FRACTION_BITS)
    mirror = render(canvas, view, window=(left, top, right, bottom), mirrored=True)
    part = image[top:bottom, left:right]
    part[mask > 0] = mirror[mask > 0]
