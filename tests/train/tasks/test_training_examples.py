import dataclasses
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from support.boxes_made import png, random_records, record

from pst_jax.errors import UserError
from train.data.bad_images import GoodRecords
from train.tasks.detection.augmentation import training_example, training_objects
from train.tasks.detection.config import DataConfig

SIZE = 64
ALL = DataConfig(image_size=SIZE, max_boxes=64, mixup=0.5, copy_paste=0.5, scale=0.9)
PLAIN = DataConfig(
  image_size=SIZE, max_boxes=8, mosaic=0, copy_paste=0, scale=0, translate=0, hsv=(0, 0, 0), flip=0
)


def example(records, index, options, seed=0, **more):
  good = GoodRecords(records, options)
  made = training_example(good, index, np.random.default_rng(seed), options, **more)
  return made | {"bad": good.bad}


def boxes_of(made):
  return made["boxes"][made["valid"]]


@pytest.fixture(scope="module")
def records():
  return random_records(12, outlines=True)


def test_the_same_generator_gives_the_same_example(records):
  one, two = (example(records, 3, ALL, seed=7) for _ in range(2))
  assert all(np.array_equal(one[key], two[key]) for key in one)


def test_threads_in_any_order_make_the_same_examples(records):
  alone = [example(records, index, ALL, seed=index) for index in range(12)]
  with ThreadPoolExecutor(4) as pool:
    order = [5, 0, 11, 3, 8, 1, 10, 2, 9, 4, 7, 6]
    together = pool.map(lambda index: example(records, index, ALL, seed=index), order)
    for index, made in zip(order, together, strict=True):
      assert all(np.array_equal(made[key], alone[index][key]) for key in made)


def test_another_generator_gives_another_example(records):
  one, two = (example(records, 3, ALL, seed=seed) for seed in (7, 8))
  assert (one["image"] != two["image"]).any()


def test_shapes_and_types_are_fixed(records):
  made = example(records, 0, ALL)
  assert (made["image"].shape, made["image"].dtype) == ((SIZE, SIZE, 3), np.uint8)
  assert (made["boxes"].shape, made["boxes"].dtype) == ((64, 4), np.float32)
  assert (made["classes"].shape, made["classes"].dtype) == ((64,), np.int32)
  assert (made["valid"].shape, made["valid"].dtype) == ((64,), np.bool_)


@pytest.mark.parametrize("seed", range(10))
def test_boxes_lie_on_the_image_and_are_large_enough(records, seed):
  boxes = boxes_of(example(records, seed % 12, ALL, seed=seed))
  assert (boxes >= 0).all() and (boxes <= SIZE).all()
  assert (boxes[:, 2:] - boxes[:, :2] > 2).all()


def bright_square(size, box):
  """A dark picture with one bright rectangle, which the box surrounds."""
  x1, y1, x2, y2 = box
  image = np.full((size, size, 3), 20, np.uint8)
  image[y1:y2, x1:x2] = 250
  return record(image, [box], [0])


@pytest.mark.parametrize("options", [
  dataclasses.replace(PLAIN, scale=0.5, translate=0.1, flip=0.5),
  dataclasses.replace(PLAIN, mosaic=1, max_boxes=8, scale=0.3, translate=0.1, flip=0.5),
], ids=["one image", "mosaic"])  # fmt: skip
@pytest.mark.parametrize("seed", range(8))
def test_boxes_stay_on_their_objects(options, seed):
  rng = np.random.default_rng(seed)
  records = []
  for _ in range(5):
    x, y = rng.integers(4, 24, size=2)
    records.append(bright_square(SIZE, (x, y, x + 34, y + 30)))
  made = example(records, 0, options, seed=seed)
  for x1, y1, x2, y2 in boxes_of(made):
    inside = made["image"][round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2]
    assert inside.min() > 200
  # And nothing bright lies outside of all boxes, but for objects of which too little is seen.
  left = made["image"].copy()
  for x1, y1, x2, y2 in np.round(boxes_of(made)).astype(int):
    left[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = 0
  assert (left > 200).all(axis=2).sum() < 0.1 * 34 * 30 * 4


def test_without_augmentation_it_is_the_letterboxed_image():
  image = np.random.default_rng(0).integers(256, size=(32, 64, 3)).astype(np.uint8)
  made = example([record(image, [[8, 4, 40, 20]], [3])], 0, PLAIN)
  np.testing.assert_array_equal(made["image"][16:48], image)
  assert (made["image"][:16] == 114).all() and (made["image"][48:] == 114).all()
  np.testing.assert_array_equal(boxes_of(made), [[8, 20, 40, 36]])
  assert made["classes"][0] == 3


def test_flipping_mirrors_image_and_boxes():
  image = np.random.default_rng(0).integers(256, size=(64, 64, 3)).astype(np.uint8)
  made = example([record(image, [[8, 4, 40, 20]])], 0, dataclasses.replace(PLAIN, flip=1))
  np.testing.assert_array_equal(made["image"], image[:, ::-1])
  np.testing.assert_array_equal(boxes_of(made), [[24, 4, 56, 20]])


def test_mixup_blends_two_images_and_has_the_boxes_of_both():
  grey = [
    record(np.full((64, 64, 3), value, np.uint8), [[0, 0, 9 + value, 30]]) for value in (0, 40)
  ]
  options = dataclasses.replace(PLAIN, mixup=1)
  made = next(
    made
    for made in (example(grey, 0, options, seed=seed) for seed in range(20))
    if made["image"].any()
  )
  assert 8 < made["image"].mean() < 32  # shares near a half
  np.testing.assert_array_equal(boxes_of(made)[:, 2], [9, 49])


def test_closing_leaves_out_mosaic_copy_paste_and_mixup(records):
  options = dataclasses.replace(ALL, mosaic=1, mixup=1, copy_paste=1)
  plain = dataclasses.replace(ALL, mosaic=0, mixup=0, copy_paste=0)
  for seed in range(5):
    closed = example(records, seed, options, seed=seed, close=True)
    alone = example(records[seed : seed + 1], 0, plain, seed=seed, close=True)
    np.testing.assert_array_equal(closed["image"], alone["image"])
    np.testing.assert_array_equal(closed["boxes"], alone["boxes"])


def test_a_mosaic_shows_four_images():
  flat = [record(np.full((64, 64, 3), 40 * index, np.uint8), []) for index in range(6)]
  options = dataclasses.replace(PLAIN, mosaic=1, scale=0.5)
  shown = [len(np.unique(example(flat, 0, options, seed=seed)["image"])) for seed in range(20)]
  assert max(shown) >= 4


def test_more_boxes_than_fit_are_an_error_with_the_count():
  image = np.zeros((64, 64, 3), np.uint8)
  boxes = [[index, 0, index + 20, 40] for index in range(9)]
  with pytest.raises(UserError, match=r"record 0 has 9 boxes, .* room for 8"):
    example([record(image, boxes)], 0, PLAIN)


def test_crowds_empty_boxes_and_duplicates_are_not_trained_on():
  image = np.zeros((64, 64, 3), np.uint8)
  boxes = [[0, 0, 20, 20], [5, 5, 30, 30], [9, 9, 9, 30], [0, 0, 20, 20], [0, 0, 20, 20]]
  made = record(image, boxes, [1, 1, 1, 1, 2], crowd=[False, True, False, False, False])
  found = training_objects(made, 64, 64)
  np.testing.assert_array_equal(found.boxes, [[0, 0, 20, 20], [0, 0, 20, 20]])
  assert found.classes.tolist() == [1, 2]


def test_the_box_of_an_outline_is_its_extent():
  image = np.zeros((64, 64, 3), np.uint8)
  pieces = [np.array([[10, 10], [20, 10], [20, 30]]), np.array([[40, 40], [50, 40], [50, 44]])]
  found = training_objects(record(image, [[9, 9, 51, 45]], polygons=[pieces]), 64, 64)
  np.testing.assert_allclose(found.boxes, [[10, 10, 50, 44]])


def test_an_image_without_boxes_is_background():
  made = example([record(np.zeros((64, 64, 3), np.uint8), [])], 0, ALL)
  assert not made["valid"].any()


@pytest.fixture
def damaged(records):
  cut = records[4] | {"image": records[4]["image"][:-40]}
  return [*records[:4], cut, *records[5:]]


@pytest.mark.parametrize("options", [PLAIN, ALL], ids=["one image", "mosaic"])
def test_a_damaged_image_is_named(damaged, options):
  with pytest.raises(UserError, match="the image of record 4 is damaged"):
    example(damaged, 4, dataclasses.replace(options, mosaic=options.mosaic and 1), seed=1)


def test_a_damaged_image_is_replaced_by_the_next(damaged, records):
  made = example(damaged, 4, dataclasses.replace(PLAIN, on_bad_image="skip"))
  expected = example(records, 5, PLAIN)
  np.testing.assert_array_equal(made["image"], expected["image"])
  assert (made["bad"], expected["bad"]) == (4, -1)


def test_a_row_of_damaged_images_is_an_error(records):
  broken = [each | {"image": b"nothing"} for each in records]
  with pytest.raises(UserError, match="16 images in a row are damaged"):
    example(broken, 0, dataclasses.replace(PLAIN, on_bad_image="skip"))


def test_a_turned_photograph_is_upright_as_its_boxes():
  image = np.zeros((20, 40, 3), np.uint8)
  content = cv2.imencode(".jpg", image)[1]
  exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
  content = content.tobytes()
  turned = content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:]
  upright = record(np.zeros((40, 20, 3), np.uint8), [[0, 0, 20, 20]], encoded=turned)
  np.testing.assert_allclose(boxes_of(example([upright], 0, PLAIN)), [[16, 0, 48, 32]])


def test_pictures_are_encoded_as_they_are():
  image = np.random.default_rng(0).integers(256, size=(5, 6, 3)).astype(np.uint8)
  decoded = cv2.imdecode(np.frombuffer(png(image), np.uint8), cv2.IMREAD_COLOR_RGB)
  np.testing.assert_array_equal(decoded, image)
