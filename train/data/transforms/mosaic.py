"""Images placed on a canvas, of which one scaled and moved part is seen; the canvas is never made.

A mosaic is four images around a point, on a canvas of twice the side that the network sees. Each is
warped straight into the result. A result's pixel is a blend of 2 x 2 pixels of the canvas, which
may belong to several images where these meet: those rows and columns are done again from strips of
the canvas two pixels wide. Worker processes import this module: it must not import jax.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from pst_jax.letterbox import GREY, Image
from train.data.transforms.boxes import Objects, clip, join, scale_and_move

cv2.setNumThreads(0)


class View(NamedTuple):
  """What is seen of a canvas: its point (x, y) lands at scale * (x, y) + (move_x, move_y).

  Attributes:
    side: of the square that is seen, in pixels.
  """

  scale: float
  move_x: float
  move_y: float
  side: int


@dataclass(frozen=True)
class Tile:
  """An image on a canvas.

  Attributes:
    left, top: where its first pixel lies; it may stick out of the canvas.
    height, width: of the image.
    pixels: gives the image; not called for one that is not seen.
    objects: on the image.
  """

  left: int
  top: int
  height: int
  width: int
  pixels: Callable[[], Image]
  objects: Objects


@dataclass(frozen=True)
class Canvas:
  """One image, or four around `centre`: top left, top right, bottom left, bottom right.

  Attributes:
    side: of the canvas, in pixels.
    centre: x and y where four tiles meet; the origin for one tile.
  """

  side: int
  tiles: Sequence[Tile]
  centre: tuple[int, int] = (0, 0)
  _loaded: dict = field(default_factory=dict)

  def objects(self) -> Objects:
    """All objects in pixels of the canvas, cut at its edges."""
    moved = [scale_and_move(tile.objects, (1, 1), (tile.left, tile.top)) for tile in self.tiles]
    return clip(join(moved), self.side, self.side)

  def image(self, index: int) -> Image:
    """The part of a tile's image that lies on the canvas."""
    if index not in self._loaded:
      tile = self.tiles[index]
      left, top, right, bottom = visible(self, tile)
      rows = slice(top - tile.top, bottom - tile.top)
      self._loaded[index] = tile.pixels()[rows, left - tile.left : right - tile.left]
    return self._loaded[index]


def mosaic_corner(
  centre: tuple[int, int], position: int, height: int, width: int
) -> tuple[int, int]:
  """Left and top of one of four images that meet at a point; `Canvas` has their order."""
  return centre[0] - width * (position % 2 == 0), centre[1] - height * (position < 2)


def visible(canvas: Canvas, tile: Tile) -> tuple[int, int, int, int]:
  """Left, top, right and bottom of a tile's part on the canvas."""
  return (
    max(tile.left, 0),
    max(tile.top, 0),
    min(tile.left + tile.width, canvas.side),
    min(tile.top + tile.height, canvas.side),
  )


def is_seen(
  view: View, canvas_side: int, box: tuple[int, int, int, int], mirrored: bool = False
) -> bool:
  """Whether any of a part of a canvas, or of its mirror image, may be seen."""
  left, top, right, bottom = box
  if mirrored:
    left, right = canvas_side - right, canvas_side - left
  x = sorted(view.scale * each + view.move_x for each in (left - 3, right + 3))
  y = sorted(view.scale * each + view.move_y for each in (top - 3, bottom + 3))
  return x[1] >= 0 and x[0] <= view.side and y[1] >= 0 and y[0] <= view.side


def render(
  canvas: Canvas,
  view: View,
  *,
  window: tuple[int, int, int, int] | None = None,
  mirrored: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
  """Draws what is seen of a canvas, grey where there is no image; bilinear.

  Args:
    window: left, top, right and bottom of the part of the result to draw; None: all of it.
    mirrored: draw the canvas as seen in a mirror.
  """
  left, top, right, bottom = window or (0, 0, view.side, view.side)
  out = np.full((bottom - top, right - left, 3), GREY, np.uint8)
  # The way back, from a pixel of the window to the canvas, along each axis: (step, start).
  x_axis = (1 / view.scale, (left - view.move_x) / view.scale)
  y_axis = (1 / view.scale, (top - view.move_y) / view.scale)
  if mirrored:
    x_axis = (-x_axis[0], canvas.side - 1 - x_axis[1])
  x, y = (
    step * np.arange(count) + start
    for (step, start), count in ((x_axis, right - left), (y_axis, bottom - top))
  )
  centre_x, centre_y = canvas.centre
  for index, tile in enumerate(canvas.tiles):
    box = visible(canvas, tile)
    columns = _span(_side_of(x, centre_x, index % 2) & (x > box[0] - 1) & (x < box[2]))
    rows = _span(_side_of(y, centre_y, index // 2) & (y > box[1] - 1) & (y < box[3]))
    if columns and rows:
      _warp(canvas.image(index), box[:2], out, columns, rows, x_axis, y_axis)
  if len(canvas.tiles) == 4:
    _mend_seams(canvas, out, x, y, x_axis, y_axis)
  return out


def _side_of(coordinates, centre: int, second: int):
  # One tile has its centre at the origin, and all of the canvas after it.
  if centre == 0:
    return np.ones(len(coordinates), bool)
  return coordinates >= centre if second else coordinates < centre


def _span(chosen) -> tuple[int, int] | None:
  """First and last + 1 of a run of neighbours."""
  found = np.flatnonzero(chosen)
  return (int(found[0]), int(found[-1]) + 1) if len(found) else None


def _warp(
  source: Image,
  corner: tuple[int, int],
  out: Image,
  columns: tuple[int, int],
  rows: tuple[int, int],
  x_axis: tuple[float, float],
  y_axis: tuple[float, float],
) -> None:
  """Fills a rectangle of `out` from a source whose first pixel lies at `corner` of the canvas."""
  back: Float[np.ndarray, "2 3"] = np.array(
    [
      [x_axis[0], 0, x_axis[0] * columns[0] + x_axis[1] - corner[0]],
      [0, y_axis[0], y_axis[0] * rows[0] + y_axis[1] - corner[1]],
    ]
  )
  out[slice(*rows), slice(*columns)] = cv2.warpAffine(
    source,
    back,
    (columns[1] - columns[0], rows[1] - rows[0]),
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_CONSTANT,
    borderValue=(GREY, GREY, GREY),
  )


def _mend_seams(canvas: Canvas, out: Image, x, y, x_axis, y_axis) -> None:
  centre_x, centre_y = canvas.centre
  every_column, every_row = (0, out.shape[1]), (0, out.shape[0])
  columns = _span((x > centre_x - 1) & (x < centre_x))
  if columns:
    strip, corner = _canvas_part(canvas, (centre_x - 1, 0, centre_x + 1, canvas.side), x, y)
    _warp(strip, corner, out, columns, every_row, x_axis, y_axis)
  rows = _span((y > centre_y - 1) & (y < centre_y))
  if rows:
    strip, corner = _canvas_part(canvas, (0, centre_y - 1, canvas.side, centre_y + 1), x, y)
    _warp(strip, corner, out, every_column, rows, x_axis, y_axis)


def _canvas_part(canvas: Canvas, box: tuple[int, int, int, int], x, y):
  """The pixels of a part of the canvas, as far as it is seen, and the corner where they begin."""
  left, top = max(box[0], int(np.floor(x.min()))), max(box[1], int(np.floor(y.min())))
  right, bottom = min(box[2], int(x.max()) + 2), min(box[3], int(y.max()) + 2)
  # At least a pixel: a canvas that was moved out of sight has no part that is seen.
  part = np.full((max(bottom - top, 1), max(right - left, 1), 3), GREY, np.uint8)
  for index, tile in enumerate(canvas.tiles):
    own = visible(canvas, tile)
    x1, y1, x2, y2 = max(left, own[0]), max(top, own[1]), min(right, own[2]), min(bottom, own[3])
    if x1 < x2 and y1 < y2:
      image = canvas.image(index)[y1 - own[1] : y2 - own[1], x1 - own[0] : x2 - own[0]]
      part[y1 - top : y2 - top, x1 - left : x2 - left] = image
  return part, (left, top)
