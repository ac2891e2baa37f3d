import numpy as np
import pytest

from train.data.transforms.boxes import Objects
from train.data.transforms.copy_paste import covered, mirrored_objects, paste
from train.data.transforms.mosaic import Canvas, Tile, View, render

WIDTH = 100


def rectangles(boxes, with_outline=True):
  boxes = np.array(boxes, np.float64)
  corners = [np.array([[a, b], [c, b], [c, d], [a, d]]) for a, b, c, d in boxes]
  return Objects(boxes, np.arange(len(boxes)), [[each] if with_outline else [] for each in corners])


def test_the_share_that_is_covered_is_of_the_covered_box():
  boxes = np.array([[0.0, 0, 10, 10]])
  np.testing.assert_allclose(covered(boxes, np.array([[5.0, 0, 40, 10]])), [[0.5]])


def test_the_mirror_image_of_a_box_in_the_middle_covers_it_and_is_not_pasted():
  assert len(mirrored_objects(rectangles([[45, 0, 55, 10]]), 1.0, WIDTH)) == 0


def test_a_mirror_image_lies_on_the_other_side():
  pasted = mirrored_objects(rectangles([[10, 0, 30, 10]]), 1.0, WIDTH)
  np.testing.assert_array_equal(pasted.boxes, [[70, 0, 90, 10]])
  np.testing.assert_array_equal(pasted.polygons[0][0][:, 0], [90, 70, 70, 90])


def test_those_that_cover_least_come_first():
  boxes = [[0, 0, 52, 10], [0, 20, 30, 30], [0, 40, 51, 50]]  # cover 4/52, 0 and 2/51
  pasted = mirrored_objects(rectangles(boxes), 0.67, WIDTH)
  assert pasted.classes.tolist() == [1, 2]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 0), (0.5, 2), (0.7, 3), (1.0, 4)])
def test_a_share_is_pasted_halves_rounded_to_even(share, count):
  boxes = [[0, 20 * index, 30, 20 * index + 10] for index in range(4)]
  assert len(mirrored_objects(rectangles(boxes), share, WIDTH)) == count


def test_half_of_five_are_two():
  boxes = [[0, 20 * index, 30, 20 * index + 10] for index in range(5)]
  assert len(mirrored_objects(rectangles(boxes), 0.5, WIDTH)) == 2


def test_objects_without_outlines_are_not_pasted():
  assert len(mirrored_objects(rectangles([[10, 0, 30, 10]], with_outline=False), 1.0, WIDTH)) == 0


def test_pixels_of_the_mirror_image_are_pasted_inside_the_outline_alone():
  rng = np.random.default_rng(0)
  image = rng.integers(256, size=(WIDTH, WIDTH, 3)).astype(np.uint8)
  found = rectangles([[10, 20, 30, 40]])
  canvas = Canvas(WIDTH, [Tile(0, 0, WIDTH, WIDTH, lambda: image, found)])
  view = View(1.0, 0.0, 0.0, WIDTH)
  drawn = render(canvas, view)
  paste(drawn, canvas, view, mirrored_objects(found, 1.0, WIDTH))
  np.testing.assert_array_equal(drawn[21:39, 71:89], image[:, ::-1][21:39, 71:89])
  drawn[18:43, 68:93] = image[18:43, 68:93]
  np.testing.assert_array_equal(drawn, image)
