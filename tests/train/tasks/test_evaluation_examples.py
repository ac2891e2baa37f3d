import numpy as np
import pytest
from support.boxes_made import record

from pst_jax.errors import UserError
from pst_jax.letterbox import map_back
from pst_jax.preprocessing import decode_upright
from train.tasks.detection.examples import evaluation_example, evaluation_padding

IMAGE = np.random.default_rng(0).integers(256, size=(30, 50, 3)).astype(np.uint8)
RECORD = record(
  IMAGE, [[5, 3, 45.25, 27], [0, 0, 50, 30]], [2, 1], crowd=[False, True], image_id=77
)


def example(encoded, max_boxes=4):
  return evaluation_example(encoded | {"image": decode_upright(encoded["image"])}, 64, max_boxes)


def test_the_long_side_fills_the_size():
  made = example(RECORD)
  grey = (made["image"] == 114).all(axis=(1, 2))
  assert made["image"].shape == (64, 64, 3)
  assert np.flatnonzero(~grey).tolist() == list(range(12, 51))  # ceil(30 * 64 / 50) = 39 rows
  assert made["pad"].tolist() == [0, 12]
  np.testing.assert_allclose(made["scale"], [64 / 50, 39 / 30])


def test_all_that_is_known_of_the_objects_is_there():
  made = example(RECORD)
  np.testing.assert_array_equal(made["boxes"][:2], [[5, 3, 45.25, 27], [0, 0, 50, 30]])
  assert made["classes"].tolist() == [2, 1, 0, 0]
  assert made["crowd"].tolist() == [False, True, False, False]
  assert made["area"].tolist() == [966, 1500, 0, 0]
  assert made["valid"].tolist() == [True, True, False, False]
  assert (made["image_id"], made["size"].tolist()) == (77, [30, 50])


def test_a_box_goes_to_the_network_and_back():
  made = example(RECORD)
  left, top = made["pad"]
  # The picture's 50 x 30 pixels are 64 x 39 there, the short side rounded up.
  seen = made["boxes"][:1] * np.tile([64 / 50, 39 / 30], 2) + [left, top, left, top]
  np.testing.assert_allclose(map_back(seen, made["scale"], made["pad"], 30, 50), made["boxes"][:1])


def test_padding_has_the_shapes_and_types_of_an_example():
  padding = evaluation_padding(64, 4)
  made = example(RECORD)
  assert not padding["valid"].any()
  assert {key: (padding[key].shape, padding[key].dtype) for key in made} == {
    key: (made[key].shape, made[key].dtype) for key in made
  }


def test_more_boxes_than_fit_are_an_error_with_the_count():
  with pytest.raises(UserError, match=r"record 77 has 2 boxes.* room for 1"):
    example(RECORD, max_boxes=1)


def test_shares_of_32_bits_give_the_pixels_of_the_file():
  boxes = np.array([[116.95, 305.86, 402.25, 571.89]])
  photograph = record(np.zeros((640, 480, 3), np.uint8), boxes)
  stored = photograph | {"boxes": photograph["boxes"].astype(np.float32).astype(float)}
  made = example(stored)
  np.testing.assert_array_equal(made["boxes"][:1], boxes)
