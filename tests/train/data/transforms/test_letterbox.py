import numpy as np
import pytest

from pst_jax.letterbox import letterbox, letterbox_geometry, loaded_size, map_back


def test_a_photograph_of_427_rows_gets_one_row_more_below():
  assert letterbox_geometry(427, 640, (448, 640)) == (427, 640, 10, 11, 0, 0)


def test_a_photograph_of_480_rows_goes_to_the_square_with_80_on_each_side():
  assert letterbox_geometry(480, 640, (640, 640)) == (480, 640, 80, 80, 0, 0)


def test_an_image_is_enlarged():
  assert letterbox_geometry(100, 50, (640, 640))[:2] == (640, 320)


@pytest.mark.parametrize("height", [33, 100, 477, 640, 901])
@pytest.mark.parametrize("width", [40, 333, 640, 1203])
def test_every_shape_fills_the_size_exactly(height, width):
  image = np.zeros((height, width, 3), np.uint8)
  boxed = letterbox(image, letterbox_geometry(height, width, (96, 128)))
  assert boxed.shape == (96, 128, 3)
  assert set(np.unique(boxed)) <= {0, 114}


@pytest.mark.parametrize(
  ("height", "width", "expected"),
  [(427, 640, (427, 640)), (480, 641, (480, 640)), (500, 375, (640, 480)), (333, 500, (427, 640))],
)
def test_the_long_side_becomes_640_and_the_short_one_is_rounded_up(height, width, expected):
  assert loaded_size(height, width, 640) == expected


def test_a_box_comes_back_to_the_image():
  # 1080 x 810 in 640 x 480: no grey, scale 16/27.
  box = map_back(np.array([[100.0, 50, 300, 400]]), 480 / 810, (0, 0), 1080, 810)
  np.testing.assert_allclose(box, [[168.75, 84.375, 506.25, 675]])


def test_the_grey_border_is_taken_off_and_the_box_cut_at_the_edges():
  box = map_back(np.array([[-5.0, 10, 700, 437]]), 1.0, (0, 10), 427, 640)
  np.testing.assert_allclose(box, [[0, 0, 640, 427]])


def test_a_side_that_was_rounded_has_a_scale_of_its_own():
  # 500 x 333 in 640 x 427: a box that ends at the edges ends there again.
  box = map_back(np.array([[576.0, 0, 640, 427]]), (640 / 500, 427 / 333), (0, 0), 333, 500)
  np.testing.assert_allclose(box, [[450, 0, 500, 333]])


def test_a_very_thin_image_keeps_a_pixel():
  assert letterbox_geometry(1, 700, (320, 320))[:2] == (1, 320)
