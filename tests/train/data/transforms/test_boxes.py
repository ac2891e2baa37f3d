import numpy as np
import pytest

from train.data.transforms.boxes import (
  Objects,
  clip,
  into_view,
  join,
  large_enough,
  scale_and_move,
)


def objects(boxes, polygons=None):
  boxes = np.array(boxes, np.float64).reshape(-1, 4)
  return Objects(boxes, np.arange(len(boxes)), polygons or [[] for _ in boxes])


def outline(*points):
  return [np.array(points, np.float64)]


def test_boxes_and_outlines_move_together():
  moved = scale_and_move(objects([[1, 2, 3, 4]], [outline((1, 2), (3, 4))]), (2, 2), (10, 20))
  np.testing.assert_array_equal(moved.boxes, [[12, 24, 16, 28]])
  np.testing.assert_array_equal(moved.polygons[0][0], [[12, 24], [16, 28]])


def test_a_mirrored_box_has_its_corners_in_order():
  mirrored = scale_and_move(objects([[10, 0, 30, 5]]), (-1, 1), (100, 0))
  np.testing.assert_array_equal(mirrored.boxes, [[70, 0, 90, 5]])


def test_clipping_drops_what_lies_outside_and_cuts_the_rest():
  clipped = clip(objects([[-5, -5, 10, 10], [60, 0, 70, 5], [90, 90, 120, 130]]), 50, 100)
  np.testing.assert_array_equal(clipped.boxes, [[0, 0, 10, 10]])
  assert clipped.classes.tolist() == [0]


@pytest.mark.parametrize(
  ("box", "kept"),
  [
    ((0, 0, 2, 50), False),  # 2 pixels wide
    ((0, 0, 2.1, 50), True),
    ((0, 0, 50, 2), False),
    ((0, 0, 3, 300), False),  # 100 times as high as wide
    ((0, 0, 3, 299), True),
  ],
)
def test_thin_boxes_are_not_learned(box, kept):
  assert large_enough(np.array([box], np.float64)).tolist() == [kept]


@pytest.mark.parametrize(("seen", "kept"), [(9.9, False), (10.1, True)])
def test_a_box_of_which_less_than_a_tenth_is_seen_goes(seen, kept):
  view = into_view(objects([[100 - seen, 0, 200 - seen, 50]]), 1.0, (0, 0), 100)
  assert len(view) == kept


@pytest.mark.parametrize(("seen", "kept"), [(2.5, True), (0.9, False)])
def test_with_an_outline_a_hundredth_is_enough(seen, kept):
  left, right = 100 - seen, 200 - seen
  square = outline((left, 0), (right, 0), (right, 50), (left, 50))
  view = into_view(objects([[left, 0, right, 50]], [square]), 1.0, (0, 0), 100)
  assert len(view) == kept


def test_the_share_that_is_seen_does_not_depend_on_the_scale():
  view = into_view(objects([[0, 0, 100, 100]]), 0.25, (0, 0), 100)
  np.testing.assert_array_equal(view.boxes, [[0, 0, 25, 25]])


def test_an_outline_gives_a_closer_box_than_its_corners():
  # A diamond, of which the tip on the left is seen.
  diamond = outline((80, 50), (130, 0), (180, 50), (130, 100))
  view = into_view(objects([[80, 0, 180, 100]], [diamond]), 1.0, (0, 0), 100)
  np.testing.assert_allclose(view.boxes, [[80, 30, 100, 70]], atol=0.5)


def test_an_outline_around_the_whole_view_fills_it():
  huge = outline((-50, -60), (150, -60), (150, 160), (-50, 160))
  view = into_view(objects([[-50, -60, 150, 160]], [huge]), 1.0, (0, 0), 100)
  np.testing.assert_array_equal(view.boxes, [[0, 0, 100, 100]])


def test_joined_images_have_all_objects_in_order():
  both = join([objects([[0, 0, 1, 1]]), objects([[0, 0, 2, 2], [0, 0, 3, 3]])])
  np.testing.assert_array_equal(both.boxes[:, 2], [1, 2, 3])
  assert len(both.polygons) == 3
