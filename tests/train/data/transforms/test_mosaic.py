import itertools

import cv2
import numpy as np
import pytest
from support.boxes_made import picture

from train.data.transforms.boxes import Objects
from train.data.transforms.mosaic import Canvas, Tile, View, is_seen, mosaic_corner, render

SIDE = 64
NO_OBJECTS = Objects(np.zeros((0, 4)), np.zeros(0, np.int32), [])


def make_canvas(rng, centre=None, images=None):
  centre = centre or tuple(int(each) for each in rng.uniform(SIDE / 2, 1.5 * SIDE, size=2))
  if images is None:
    shapes = [(SIDE, int(rng.integers(20, SIDE + 1))) for _ in range(4)]
    images = [picture(rng, *(shape if rng.random() < 0.5 else shape[::-1])) for shape in shapes]
  corners = [mosaic_corner(centre, i, *image.shape[:2]) for i, image in enumerate(images)]
  tiles = [
    Tile(left, top, *image.shape[:2], lambda image=image: image, NO_OBJECTS)
    for (left, top), image in zip(corners, images, strict=True)
  ]
  return Canvas(2 * SIDE, tiles, centre)


def two_steps(canvas, view, mirrored=False):
  """The same in two steps: the canvas drawn whole, then warped."""
  whole = np.full((canvas.side + 200, canvas.side + 200, 3), 114, np.uint8)
  for tile in canvas.tiles:
    rows = slice(tile.top + 100, tile.top + 100 + tile.height)
    columns = slice(tile.left + 100, tile.left + 100 + tile.width)
    whole[rows, columns] = tile.pixels()
  drawn = whole[100:-100, 100:-100]
  if mirrored:
    drawn = np.ascontiguousarray(drawn[:, ::-1])
  matrix = np.array([[view.scale, 0, view.move_x], [0, view.scale, view.move_y]])
  size = (view.side, view.side)
  return cv2.warpAffine(drawn, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(114,) * 3)


def views(rng):
  scale = rng.uniform(0.3, 1.9)
  move = rng.uniform(0.3, 0.7, size=2) * SIDE - scale * SIDE
  return View(scale, *move, SIDE)


@pytest.mark.parametrize("seed", range(40))
def test_a_mosaic_equals_drawing_the_canvas_and_warping_it(seed):
  rng = np.random.default_rng(seed)
  canvas, view = make_canvas(rng), views(rng)
  difference = np.abs(render(canvas, view).astype(int) - two_steps(canvas, view))
  assert difference.max() <= 1


def test_a_canvas_that_was_moved_out_of_sight_is_grey():
  canvas = make_canvas(np.random.default_rng(0), centre=(SIDE, SIDE))
  for move in itertools.product((-3 * SIDE, 2 * SIDE), repeat=2):
    assert np.all(render(canvas, View(0.9, *move, SIDE)) == 114)


@pytest.mark.parametrize("seed", range(20))
def test_the_mirror_image_equals_mirroring_the_canvas(seed):
  rng = np.random.default_rng(seed)
  canvas, view = make_canvas(rng), views(rng)
  difference = np.abs(
    render(canvas, view, mirrored=True).astype(int) - two_steps(canvas, view, True)
  )
  assert difference.max() <= 1


def test_seams_of_black_and_white_tiles_are_blended():
  rng = np.random.default_rng(0)
  images = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 255, 255, 0)]
  for scale, shift in itertools.product((0.7, 1.0, 1.3), (0.0, 0.25, 0.5, 0.8)):
    canvas = make_canvas(rng, (SIDE, SIDE), images)
    view = View(scale, SIDE / 2 - scale * SIDE + shift, SIDE / 2 - scale * SIDE + shift, SIDE)
    difference = np.abs(render(canvas, view).astype(int) - two_steps(canvas, view))
    # A step of 255 levels turns OpenCV's rounding of coordinates to 1/32 into 8 levels.
    assert difference.max() <= 8 and difference.mean() < 0.5


def test_a_window_is_a_part_of_the_whole():
  rng = np.random.default_rng(3)
  canvas, view = make_canvas(rng), views(rng)
  part = render(canvas, view, window=(10, 5, 40, 50))
  assert np.abs(part.astype(int) - render(canvas, view)[5:50, 10:40]).max() <= 1


def test_tiles_meet_at_the_centre_each_in_its_corner():
  sizes = [(10, 20), (11, 21), (12, 22), (13, 23)]
  corners = [mosaic_corner((50, 40), position, *size) for position, size in enumerate(sizes)]
  assert corners == [(30, 30), (50, 29), (28, 40), (50, 40)]


def test_a_tile_that_is_not_seen_is_not_decoded():
  rng = np.random.default_rng(1)
  canvas = make_canvas(rng, (SIDE, SIDE))

  def fail():
    raise AssertionError("decoded")

  hidden = Tile(*[getattr(canvas.tiles[3], each) for each in ("left", "top", "height", "width")],
                fail, NO_OBJECTS)  # fmt: skip
  canvas = Canvas(canvas.side, [*canvas.tiles[:3], hidden], canvas.centre)
  view = View(1.0, 0.0, 0.0, SIDE // 2)
  assert not is_seen(view, canvas.side, (SIDE, SIDE, 2 * SIDE, 2 * SIDE))
  render(canvas, view)
