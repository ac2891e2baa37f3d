"""Random erasing, mixup and CutMix against what their papers and torchvision say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.config import DataConfig
from train.data.blocks import from_blocks, to_blocks
from train.tasks.classification.augment import erase, mix, neighbours, prepare

COUNT, HEIGHT, WIDTH = 2000, 32, 24


def keys(count=COUNT, seed=0):
  return jax.random.split(jax.random.key(seed), count)


@pytest.fixture(scope="module")
def erased():
  """Masks [image, row, column] of what was erased with chance 0.4."""
  images = jnp.ones((COUNT, HEIGHT, WIDTH, 3))
  found = np.asarray(jax.jit(lambda images, keys: erase(images, keys, 0.4))(images, keys()))
  assert set(np.unique(found)) == {0, 1}
  assert (found == found[..., :1]).all()
  return found[..., 0] == 0


def sides(mask):
  """Rows and columns of the box that a mask is made of."""
  rows, columns = mask.any(axis=1), mask.any(axis=0)
  box = rows[:, None] & columns[None, :]
  assert (mask == box).all()
  for line in (rows, columns):  # in one piece
    assert np.count_nonzero(np.diff(np.concatenate([[0], line, [0]]))) == 2
  return rows.sum(), columns.sum()


def test_as_many_images_are_erased_as_the_chance_says(erased):
  # Four standard deviations of 2000 draws.
  assert np.mean(erased.any(axis=(1, 2))) == pytest.approx(0.4, abs=0.044)


def test_what_is_erased_is_a_box_of_torchvisions_area_and_ratio(erased):
  found = np.array([sides(mask) for mask in erased if mask.any()])
  area, ratio = found.prod(axis=1) / (HEIGHT * WIDTH), found[:, 0] / found[:, 1]
  # Sides are rounded to whole pixels: half a pixel more or less on each.
  assert 0.01 < area.min() < 0.04
  assert 0.28 < area.max() < 0.36
  assert ratio.min() < 0.5
  assert ratio.max() > 2
  # Uniform in area: half of them lie below the middle.
  assert np.mean(area < 0.175) == pytest.approx(0.5, abs=0.08)


def test_boxes_reach_every_edge_of_the_image(erased):
  anywhere = erased.any(axis=0)
  assert anywhere.all()
  # A box that fits lies at the edges as often as elsewhere: the corners are erased, but rarely.
  counts = erased.sum(axis=0)
  assert counts[0, 0] < counts[HEIGHT // 2, WIDTH // 2]


def images_and_neighbours(count):
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.uniform(size=(count, HEIGHT, WIDTH, 3)), jnp.float32)
  return images, np.asarray(images).reshape(-1, 2, HEIGHT, WIDTH, 3)[:, ::-1].reshape(images.shape)


def test_neighbours_swap_in_pairs():
  assert neighbours(jnp.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]


def test_mixup_is_the_mean_of_two_images_by_share():
  images, others = images_and_neighbours(64)
  found, share = jax.jit(lambda images, keys: mix(images, keys, 0.4, 0.0))(images, keys(64))
  weight = np.asarray(share)[:, None, None, None]
  np.testing.assert_allclose(found, weight * images + (1 - weight) * others, atol=1e-6)
  assert len(set(share.tolist())) == 64


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_of_mixup_have_the_variance_of_their_beta_distribution(alpha):
  images = jnp.zeros((COUNT, 2, 2, 3))
  _, share = jax.jit(lambda images, keys: mix(images, keys, alpha, 0.0))(images, keys())
  assert np.mean(share) == pytest.approx(0.5, abs=0.05)
  assert np.var(share) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_cutmix_takes_a_box_from_the_neighbour_and_counts_its_pixels():
  images, others = images_and_neighbours(256)
  found, share = jax.jit(lambda images, keys: mix(images, keys, 0.0, 1.0))(images, keys(256))
  found, taken = np.asarray(found), np.asarray(found == others).all(axis=-1)
  assert (taken | np.asarray(found == images).all(axis=-1)).all()
  for mask in taken:
    if mask.any():
      sides(mask)
  np.testing.assert_allclose(share, 1 - taken.mean(axis=(1, 2)), atol=1e-6)
  assert np.mean(share) == pytest.approx(0.6, abs=0.1)  # boxes are cut off at the edges


def test_with_both_each_image_takes_one_of_the_two():
  images, others = images_and_neighbours(256)
  found, share = jax.jit(lambda images, keys: mix(images, keys, 1.0, 1.0))(images, keys(256))
  own, other = (np.asarray(found == each).all(axis=-1) for each in (images, others))
  cut = (own | other).all(axis=(1, 2))
  assert np.mean(cut) == pytest.approx(0.5, abs=0.125)
  weight = np.asarray(share)[:, None, None, None]
  blend = np.asarray(weight * images + (1 - weight) * others)
  np.testing.assert_allclose(np.asarray(found)[~cut], blend[~cut], atol=1e-6)


def batch(count):
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(256, size=(count, 16, 16, 3), dtype=np.uint8),
    "label": rng.integers(10, size=count).astype(np.int32),
    "position": np.arange(count),
  }


CONFIG = DataConfig(erasing=0.5, mixup=0.2, cutmix=1.0)


def test_an_example_is_augmented_alike_in_the_whole_batch_and_in_a_part():
  run = jax.jit(lambda batch: prepare(batch, jax.random.key(3), CONFIG, jnp.float32))
  images, targets = run(batch(8))
  part_images, part_targets = run({name: value[4:] for name, value in batch(8).items()})
  assert (part_images == images[4:]).all()
  for part, whole in zip(part_targets, targets, strict=True):
    assert (part == whole[4:]).all()


def test_without_augmentation_images_are_normalised_and_labels_whole():
  given = batch(4)
  images, targets = prepare(given, jax.random.key(0), DataConfig(), jnp.float32)
  assert targets.share.tolist() == [1.0] * 4
  assert (targets.label == given["label"]).all()
  expected = (given["image"] / 255 - np.array(DataConfig.mean)) / np.array(DataConfig.std)
  np.testing.assert_allclose(images, expected, atol=1e-5)


def test_images_in_blocks_are_augmented_as_they_are():
  run = jax.jit(lambda batch: prepare(batch, jax.random.key(3), CONFIG, jnp.float32))
  given = batch(64)
  expected, targets = run(given)
  found, others = run(given | {"image": to_blocks(given["image"])})
  np.testing.assert_allclose(from_blocks(np.asarray(found)), expected, atol=1e-6)
  assert (others.share == targets.share).all()
