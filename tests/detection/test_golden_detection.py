"""Assignment, loss and suppression against what the authors' code computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import golden_values
from support.detectors import golden_targets

from pst_jax import detection

GOLDEN = golden_values.arrays("detection_train")
HEIGHT, WIDTH = 160, 128


def golden_maps():
  return tuple(golden_values.nhwc(GOLDEN[f"pred{i}"]) for i in range(3))


def targets(size=None):
  return golden_targets(GOLDEN, "", 3, HEIGHT, WIDTH, size)


def no_boxes():
  return jax.tree.map(np.zeros_like, targets())


SIZES = [None, 23]


@pytest.mark.parametrize("size", SIZES)
def test_the_same_anchors_answer_for_the_same_boxes(size):
  assigned = jax.jit(detection.assign)(golden_maps(), targets(size))
  np.testing.assert_array_equal(assigned.foreground, GOLDEN["assign/fg"])
  np.testing.assert_array_equal(assigned.index, GOLDEN["assign/gt_idx"])
  np.testing.assert_allclose(assigned.scores.max(-1), GOLDEN["assign/scores_max"], atol=2e-6)
  np.testing.assert_allclose(assigned.scores.sum(), GOLDEN["assign/scores_sum"], rtol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_losses_are_the_authors(size):
  losses = jax.jit(detection.loss)(golden_maps(), targets(size))
  items = [losses.box, losses.classes, losses.dfl]
  np.testing.assert_allclose(items, GOLDEN["loss_items"], rtol=2e-6)
  np.testing.assert_allclose(losses.total, GOLDEN["loss_sum"], rtol=2e-6)
  np.testing.assert_allclose(losses.weight, GOLDEN["assign/scores_sum"], rtol=2e-6)


def test_a_batch_without_boxes_is_all_background():
  losses = jax.jit(detection.loss)(golden_maps(), no_boxes())
  assert (losses.box, losses.dfl, losses.weight) == (0, 0, 0)
  np.testing.assert_allclose(losses.classes, 37004.719, rtol=1e-6)
  np.testing.assert_allclose(losses.total, 111014.16, rtol=1e-6)


def test_the_gradient_with_respect_to_the_maps_has_the_authors_norm():
  gradients = jax.jit(jax.grad(lambda maps: detection.loss(maps, targets()).total))(golden_maps())
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(each)) for each in gradients))
  np.testing.assert_allclose(norm, 27.5357, rtol=1e-5)


MODES = {
  "default": {"iou_threshold": 0.45},
  "val": {"score_threshold": 0.001, "iou_threshold": 0.7, "multi_label": True},
  "agnostic": {"iou_threshold": 0.45, "class_agnostic": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_suppression_keeps_the_authors_rows_in_their_order(mode):
  decoded = GOLDEN["nms/in"].transpose(0, 2, 1)
  centre, half = decoded[..., :2], decoded[..., 2:4] / 2
  boxes = np.concatenate([centre - half, centre + half], axis=-1)
  found = detection.non_max_suppression(boxes, decoded[..., 4:], **MODES[mode])
  for image in range(3):
    valid = np.asarray(found.valid[image])
    rows = np.column_stack([found.boxes[image], found.scores[image], found.classes[image]])
    np.testing.assert_array_equal(rows[valid], GOLDEN[f"nms/{mode}/{image}"])
    assert not valid[valid.sum() :].any()
