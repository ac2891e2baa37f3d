import cv2
import numpy as np
import pytest

from pst_jax.inference.drawing import COLOURS, LINE, PAPER, Picture, draw_boxes, encode_png
from train.data.drawing import GAP, draw_grid


def grey(value, side=160):
  return np.full((side, side, 3), value, np.uint8)


def test_pictures_stand_row_by_row():
  grid = draw_grid([Picture(grey(10 * index)) for index in range(5)])
  centres = [grid[GAP + 80 + 166 * (i // 3), GAP + 80 + 166 * (i % 3), 0] for i in range(6)]
  assert centres == [0, 10, 20, 30, 40, PAPER[0]]


def test_small_pictures_are_enlarged_pixel_by_pixel():
  image = np.random.default_rng(0).integers(256, size=(32, 32, 3)).astype(np.uint8)
  grid = draw_grid([Picture(image)])
  np.testing.assert_array_equal(grid[GAP + 2 : GAP + 160 : 5, GAP + 2 : GAP + 160 : 5], image)


def test_a_box_is_drawn_around_its_pixels_in_the_colour_of_its_class():
  drawn = draw_boxes(Picture(grey(0), boxes=[[20, 30, 60, 90]], classes=[1], names=[""]))
  rows, columns = np.nonzero(drawn.any(axis=2))
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 89, 20, 59)
  assert (drawn[rows, columns] == COLOURS[1]).all()


def test_the_picture_that_was_given_stays_as_it_is():
  image = grey(0)
  draw_boxes(Picture(image, boxes=[[20, 30, 60, 90]], classes=[0], names=["cat"]))
  assert not image.any()


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (150, 150, 160, 160), (-5, -5, 200, 200)])
def test_a_name_is_written_wherever_the_box_lies(box):
  plain, named = (
    draw_boxes(Picture(grey(0), boxes=[box], classes=[0], names=[name])) for name in ("", "a dog")
  )
  assert (named != plain).any(axis=2).sum() > 100


def test_a_caption_stands_below_its_picture_and_is_cut_to_its_width():
  long = draw_grid([Picture(grey(0), caption="a very long name " * 9), Picture(grey(0))])
  strip = long[GAP + 160 : GAP + 160 + LINE]
  assert (strip[:, GAP : GAP + 160] < 128).any()
  assert (strip[:, GAP + 162 :] == PAPER[0]).all()


def test_the_file_is_the_picture():
  image = np.random.default_rng(0).integers(256, size=(9, 8, 3)).astype(np.uint8)
  decoded = cv2.imdecode(np.frombuffer(encode_png(image), np.uint8), cv2.IMREAD_COLOR_RGB)
  np.testing.assert_array_equal(decoded, image)
