import numpy as np
import pytest
from support.box_scenes import CLASSES, coco_files, pycocotools_evaluation, random_batches

from pst_jax.errors import UserError
from train.tasks.detection.mean_ap import FIGURES, Found, MeanAP, Truth

METRIC = MeanAP(CLASSES)


def state_of(batches):
  state = METRIC
  for ids, truth, found, mask in batches:
    state = state.update(ids, truth, found, mask)
  return state


def one_image(image_id=1, truth=((0, 0, 40, 40),), found=((0, 0, 40, 40),), score=0.5, **options):
  """Arguments of `update` for one image with boxes of class 0."""

  def boxes(rows):
    array = np.array(rows, np.float64).reshape(1, -1, 4)
    return array, np.zeros(array.shape[:2], int), np.ones(array.shape[:2], bool)

  places, classes, valid = boxes(found)
  scores = np.full(classes.shape, score)
  return [image_id], Truth(*boxes(truth), **options), Found(places, scores, classes, valid)


@pytest.mark.parametrize("seed", range(8))
def test_all_twelve_figures_equal_those_of_pycocotools_to_the_last_bit(seed):
  # Grids of one pixel have few equal overlaps, grids of forty few that differ.
  batches = random_batches(seed, grid=(1, 4, 10, 40)[seed % 4])
  expected = pycocotools_evaluation(*coco_files(batches))
  found = state_of(batches).compute()
  assert list(found.figures.values()) == [float(value) for value in expected.stats]
  assert found.figures["map"] > 0


@pytest.mark.parametrize("seed", range(4))
def test_precisions_recalls_and_scores_equal_those_of_pycocotools(seed):
  batches = random_batches(seed)
  expected = pycocotools_evaluation(*coco_files(batches)).eval
  found = state_of(batches).compute()
  for name in ("precision", "recall", "scores"):
    np.testing.assert_array_equal(getattr(found, name), expected[name])


def test_the_order_of_batches_changes_nothing():
  batches = random_batches(0)
  alone = state_of(batches).compute().figures
  assert state_of(batches[1::2] + batches[::2]).compute().figures == alone


def test_an_image_without_boxes_counts_what_is_found_on_it():
  state = METRIC.update(*one_image())
  assert state.compute().figures["map"] == pytest.approx(1)
  empty = one_image(image_id=2, truth=(), score=0.9)
  assert state.update(*empty).compute().figures["map"] == pytest.approx(0.5)


def test_an_image_that_only_fills_the_batch_counts_nothing():
  state = METRIC.update(*one_image())
  filled = state.update(*one_image(image_id=2, truth=(), score=0.9), mask=[False])
  assert filled.compute().figures == state.compute().figures


def test_nothing_found_is_zero_and_no_boxes_are_minus_one():
  state = METRIC.update(*one_image(found=()))
  figures = state.compute().figures
  assert figures["map"] == figures["ar100"] == figures["ap_medium"] == 0
  assert figures["ap_small"] == figures["ap_large"] == -1
  state = METRIC.update(*one_image(truth=()))
  assert set(state.compute().figures.values()) == {-1}


def test_boxes_are_measured_by_themselves_where_no_area_is_given():
  state = METRIC.update(*one_image())
  assert state.compute().figures["ap_medium"] == pytest.approx(1)
  state = METRIC.update(*one_image(areas=[[1000.0]]))
  assert state.compute().figures["ap_small"] == pytest.approx(1)


def test_boxes_and_images_are_counted_by_class_without_crowds():
  boxes = ((0, 0, 9, 9), (5, 5, 9, 9), (0, 0, 2, 2))
  state = METRIC.update(*one_image(truth=boxes, crowds=[[False, False, True]]))
  result = state.compute()
  assert (result.boxes.tolist(), result.images.tolist()) == ([2, 0, 0, 0], [1, 0, 0, 0])


def test_an_image_that_comes_twice_is_named():
  state = METRIC.update(*one_image(image_id=77))
  with pytest.raises(UserError, match="image id 77 was evaluated 2 times"):
    MeanAP(CLASSES, 2 * state.batches).compute()


def test_no_image_at_all_is_an_error():
  with pytest.raises(UserError, match="no image to evaluate on"):
    METRIC.compute()


def test_a_class_that_the_network_does_not_have_is_named():
  ids, truth, found = one_image()
  with pytest.raises(UserError, match=f"class {CLASSES}, but the network has {CLASSES} classes"):
    METRIC.update(ids, truth._replace(classes=truth.classes + CLASSES), found)


def test_detections_that_are_not_finite_are_an_error():
  with pytest.raises(UserError, match=r"detections hold values that are not finite"):
    METRIC.update(*one_image(score=np.nan))


def test_figures_stand_in_the_order_of_coco():
  assert list(FIGURES)[:3] == ["map", "ap50", "ap75"]
  assert len(FIGURES) == 12
