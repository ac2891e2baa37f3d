import dataclasses

import numpy as np
import pytest

from train.config import DataConfig
from train.tasks.classification import crops as images


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def test_boxes_lie_inside_and_keep_scale_and_ratio():
  rng = np.random.default_rng(0)
  for _ in range(500):
    top, left, height, width = images.sample_box(rng, 300, 400, min_scale=0.08)
    assert 0 <= top <= 300 - height
    assert 0 <= left <= 400 - width
    assert 0.075 < height * width / (300 * 400) <= 1
    assert 0.73 < width / height < 1.36


def test_box_areas_are_uniform():
  rng = np.random.default_rng(0)
  boxes = np.array([images.sample_box(rng, 1000, 1000, min_scale=0.1)[2:] for _ in range(2000)])
  share = boxes.prod(axis=1) / 1000**2
  # Large boxes of an extreme ratio do not fit and are drawn again, so only the lower half is even.
  counts, _ = np.histogram(share, bins=[0.1, 0.2, 0.3, 0.4, 0.5])
  assert counts.min() > 0.8 * counts.max()


@pytest.mark.parametrize(
  ("size", "box"), [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))]
)
def test_an_image_too_long_for_any_box_gives_its_centre(size, box):
  assert images.sample_box(np.random.default_rng(0), *size, min_scale=0.9) == box


SIZES = [(225, 193), (1, 1), (20, 500), (31, 33)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", sorted(images.TRAINING_CROPS))
def test_every_training_crop_is_a_square_of_image_size(crop, size):
  config = DataConfig(image_size=32, crop=crop, max_shift=5)
  image = images.training_image(noise(*size), np.random.default_rng(0), config)
  assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


@pytest.fixture
def resized(monkeypatch):
  """A random resized crop to 32 whose box is the whole image."""
  monkeypatch.setattr(images, "sample_box", lambda rng, height, width, _: (0, 0, height, width))
  return lambda image: images.random_resized_crop(image, None, DataConfig(image_size=32))


def test_every_pixel_of_a_box_counts_where_it_is_resized_bilinearly(resized):
  for column in range(63):
    image = np.zeros((50, 63, 3), np.uint8)
    image[:, column] = 255
    assert resized(image).any()


def test_a_box_that_shrinks_by_two_is_averaged(resized):
  blocks = noise(32, 32) // 2 + 10
  around = np.tile([[[-2], [2]], [[1], [-1]]], (32, 32, 1))
  image = np.kron(blocks, np.ones((2, 2, 1), np.uint8)) + around
  np.testing.assert_array_equal(resized(image.astype(np.uint8)), blocks)


def test_a_shift_moves_the_whole_image_and_leaves_black():
  image = noise(8, 8) | 1  # no black pixel of its own
  config = DataConfig(image_size=8, crop="shift", max_shift=2, flip=False)
  padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
  windows = [padded[top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
  seen = set()
  for seed in range(300):
    moved = images.training_image(image, np.random.default_rng(seed), config)
    (match,) = [i for i, window in enumerate(windows) if np.array_equal(window, moved)]
    seen.add(match)
  assert len(seen) == len(windows)


def test_half_of_the_images_are_mirrored():
  image = noise(8, 8)
  config = DataConfig(image_size=8, crop="none", eval_crop=1.0, flip=True)
  rng = np.random.default_rng(0)
  crops = [images.training_image(image, rng, config) for _ in range(200)]
  mirrored = [np.array_equal(crop, image[:, ::-1]) for crop in crops]
  assert all(
    np.array_equal(crop, image) for crop, turned in zip(crops, mirrored, strict=True) if not turned
  )
  assert 70 < sum(mirrored) < 130


def test_without_flip_no_image_is_mirrored():
  image = noise(8, 8)
  config = dataclasses.replace(DataConfig(), image_size=8, crop="none", eval_crop=1.0, flip=False)
  rng = np.random.default_rng(0)
  crops = [images.training_image(image, rng, config) for _ in range(20)]
  assert all(np.array_equal(crop, image) for crop in crops)
