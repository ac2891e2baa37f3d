"""Objects on an image, their boxes and outlines, and how they move with its pixels.

Worker processes import this module: it must not import jax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

Boxes = Float[np.ndarray, "objects 4"]
Polygon = Float[np.ndarray, "points 2"]

POLYGON_POINTS = 1000
# A moved box is kept if it is wider and higher than this, in pixels, ...
SMALLEST_SIDE = 2.0
# ... its sides have a smaller ratio than this, ...
LARGEST_RATIO = 100.0
# ... and more than this share of it is left; with an outline the box follows the object closely.
SMALLEST_SHARE = 0.10
SMALLEST_SHARE_OF_OUTLINE = 0.01


@dataclass(frozen=True)
class Objects:
  """The objects on an image.

  Attributes:
    boxes: x1, y1, x2, y2 in pixels.
    classes: index of each object's class.
    polygons: each object's outlines, x and y in pixels; none where the data set has none.
  """

  boxes: Boxes
  classes: Int[np.ndarray, " objects"]
  polygons: Sequence[Sequence[Polygon]]

  def __len__(self) -> int:
    return len(self.classes)

  def take(self, indices: Int[np.ndarray, " some"] | Bool[np.ndarray, " objects"]) -> "Objects":
    indices = np.arange(len(self))[indices]
    return Objects(
      self.boxes[indices], self.classes[indices], [self.polygons[index] for index in indices]
    )


def join(parts: Sequence[Objects]) -> Objects:
  """All objects of several images, which now are one."""
  return Objects(
    np.concatenate([part.boxes for part in parts]),
    np.concatenate([part.classes for part in parts]),
    [polygons for part in parts for polygons in part.polygons],
  )


def areas(boxes: Boxes) -> Float[np.ndarray, " objects"]:
  return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def scale_and_move(
  objects: Objects, scale: tuple[float, float], move: tuple[float, float]
) -> Objects:
  """Moves every x and y to scale * x + move. A negative scale mirrors; boxes stay ordered."""
  scale, move = np.array(scale, np.float64), np.array(move, np.float64)
  corners = objects.boxes.reshape(-1, 2, 2) * scale + move
  boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
  polygons = [[points * scale + move for points in each] for each in objects.polygons]
  return Objects(boxes, objects.classes, polygons)


def clip(objects: Objects, width: float, height: float) -> Objects:
  """Cuts boxes and outlines at the edges of the image; boxes without area go."""
  limits = np.array([width, height], np.float64)
  boxes = np.clip(objects.boxes, 0, np.tile(limits, 2))
  polygons = [
    [np.clip(_with_points_between(points, limits), 0, limits) for points in each]
    for each in objects.polygons
  ]
  return Objects(boxes, objects.classes, polygons).take(areas(boxes) > 0)


def into_view(objects: Objects, scale: float, move: tuple[float, float], side: int) -> Objects:
  """Objects after an image was scaled and moved, on the square that is seen; too small ones go.

  A box without an outline becomes the part of it that is seen. With an outline it becomes the
  extent of the outline's points that are seen; if the outline leaves the square on three sides or
  more, its points are drawn to the square's edge instead.
  """
  moved = scale_and_move(objects, (scale, scale), move)
  boxes = np.clip(moved.boxes, 0, side)
  has_outline = np.array([len(each) > 0 for each in moved.polygons], bool)
  for index in np.flatnonzero(has_outline):
    boxes[index] = _extent_in_view(moved.polygons[index], side)
  share = np.where(has_outline, SMALLEST_SHARE_OF_OUTLINE, SMALLEST_SHARE)
  old_areas = areas(objects.boxes) * scale**2
  keep = large_enough(boxes) & (areas(boxes) > share * old_areas)
  return Objects(boxes, moved.classes, moved.polygons).take(keep)


def large_enough(boxes: Boxes) -> Bool[np.ndarray, " objects"]:
  """Whether boxes have sides and a shape that a detector can learn."""
  sides = boxes[:, 2:] - boxes[:, :2]
  shortest, longest = sides.min(axis=1), sides.max(axis=1)
  return (shortest > SMALLEST_SIDE) & (longest < LARGEST_RATIO * shortest)


def extent(polygons: Sequence[Polygon]) -> Float[np.ndarray, " 4"]:
  """The box around outlines."""
  points = np.concatenate(polygons)
  return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _extent_in_view(polygons: Sequence[Polygon], side: int) -> Float[np.ndarray, " 4"]:
  box = extent(polygons)
  outside = np.concatenate([box[:2] < 0, box[2:] > side])
  if not outside.any():
    return box
  points = np.concatenate([_with_points_between(each, np.array([side, side])) for each in polygons])
  if outside.sum() >= 3:
    points = np.clip(points, 0, side)
  points = points[np.all((points >= 0) & (points <= side), axis=1)]
  return extent([points]) if len(points) else np.zeros(4)


def _with_points_between(
  points: Polygon, limits: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "more 2"]:
  """Adds points along an outline that leaves the image, to about 1,000; the corners stay."""
  if len(points) >= POLYGON_POINTS or (np.all(points >= 0) and np.all(points <= limits)):
    return points
  closed = np.concatenate([points, points[:1]])
  corners = np.arange(len(closed))
  between = np.linspace(0, len(points), POLYGON_POINTS - len(points), endpoint=False)
  where = np.union1d(corners[:-1], between)
  return np.stack([np.interp(where, corners, closed[:, axis]) for axis in range(2)], axis=1)
