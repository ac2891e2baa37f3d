"""Pictures in a grid, as one image."""

import math
from collections.abc import Sequence

import numpy as np

from pst_jax.inference.drawing import INK, LINE, PAPER, Image, Picture, draw_boxes, write

SMALLEST_TILE = 160
GAP = 6


def draw_grid(pictures: Sequence[Picture], columns: int | None = None) -> Image:
  """Draws pictures of one size side by side, row by row; small ones are enlarged.

  Args:
    columns: in a row; None: as many as make a square.
  """
  columns = columns or math.ceil(math.sqrt(len(pictures)))
  rows = math.ceil(len(pictures) / columns)
  height, width = pictures[0].image.shape[:2]
  scale = max(1, math.ceil(SMALLEST_TILE / max(height, width)))
  below = LINE if any(picture.caption for picture in pictures) else 0
  step_x, step_y = scale * width + GAP, scale * height + below + GAP
  grid = np.full((rows * step_y + GAP, columns * step_x + GAP, 3), PAPER, np.uint8)
  for index, picture in enumerate(pictures):
    x, y = GAP + index % columns * step_x, GAP + index // columns * step_y
    tile = grid[y : y + scale * height + below, x : x + scale * width]
    tile[: scale * height] = draw_boxes(picture, scale)
    if picture.caption:
      write(tile, picture.caption, 0, scale * height, INK)
  return grid
