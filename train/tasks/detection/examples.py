"""Boxes in tables of a fixed number of rows, and what a detector is evaluated on.

Worker processes import this module: it must not import jax.
"""

from typing import Any

import numpy as np

from pst_jax.errors import UserError
from pst_jax.letterbox import evaluation_geometry, letterbox


def table_of_boxes(
  boxes: dict[str, np.ndarray], max_boxes: int, name: str
) -> dict[str, np.ndarray]:
  """All that is known of boxes in a fixed number of rows, and `valid`: which of them are filled.

  Args:
    boxes: arrays of one row for each box.
    max_boxes: rows of the table.
    name: of the image, for the error.

  Raises:
    UserError: there are more boxes than rows.
  """
  count = len(boxes["boxes"])
  if count > max_boxes:
    raise UserError(
      f"{name} has {count} boxes, but the table has room for {max_boxes}: raise max_boxes"
    )
  table = {"valid": np.arange(max_boxes) < count}
  for key, rows in boxes.items():
    table[key] = np.zeros((max_boxes, *rows.shape[1:]), rows.dtype)
    table[key][:count] = rows
  return table


def evaluation_example(
  record: dict[str, Any], image_size: int, max_boxes: int
) -> dict[str, np.ndarray]:
  """An image as the network sees it for evaluation, and all that is known of its objects.

  `pst_jax.letterbox.map_back` brings detections back to the image.

  Args:
    record: a `BoxRecord` whose image is decoded, upright: uint8 [height, width, 3], RGB.
    image_size: side of the square that the network sees, in pixels.
    max_boxes: rows of the table of boxes.

  Returns:
    image: uint8 [image_size, image_size, 3], RGB.
    image_id: int64.
    size: int32 [2], height and width of the image itself.
    scale: float32 [2], pixels here for one pixel of the image, along x and y.
    pad: float32 [2], grey pixels on the left and at the top.
    boxes: float64 [max_boxes, 4], x1, y1, x2, y2 in pixels of the image itself.
    classes: int32 [max_boxes]; crowd: bool [max_boxes]; area: float64 [max_boxes].
    valid: bool [max_boxes].

  Raises:
    UserError: there are more boxes than `max_boxes`.
  """
  image = record["image"]
  height, width = image.shape[:2]
  place = evaluation_geometry(height, width, image_size)
  known = {key: record[key] for key in ("classes", "crowd", "area")}
  # To a thousandth of a pixel, as shares of 32 bits carry them.
  known["boxes"] = np.round(record["boxes"] * (width, height, width, height), 3)
  return {
    "image": letterbox(image, place),
    "image_id": np.int64(record["image_id"]),
    "size": np.array([height, width], np.int32),
    "scale": np.array([place.width / width, place.height / height], np.float32),
    "pad": np.array([place.left, place.top], np.float32),
    **table_of_boxes(known, max_boxes, record["name"]),
  }


def evaluation_padding(image_size: int, max_boxes: int) -> dict[str, np.ndarray]:
  """An example without an image, of the same shapes and types, that fills the last batch."""
  nothing = {
    "image": np.zeros((1, 1, 3), np.uint8),
    "name": "padding",
    "image_id": -1,
    "boxes": np.zeros((0, 4)),
    "classes": np.zeros(0, np.int32),
    "crowd": np.zeros(0, bool),
    "area": np.zeros(0),
  }
  return evaluation_example(nothing, image_size, max_boxes)
