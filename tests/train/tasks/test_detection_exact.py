import jax
import numpy as np

from train.tasks.detection.data import from_words, to_words


def test_float64_comes_back_from_a_device_to_the_bit():
  boxes = np.random.default_rng(0).uniform(0, 640, (3, 5, 4))
  words = jax.jit(lambda x: x)(to_words(boxes))
  assert words.shape == (3, 5, 4, 2)
  np.testing.assert_array_equal(from_words(np.asarray(words)), boxes)
  assert (boxes.astype(np.float32) != boxes).any()


def test_ids_beyond_31_bits_come_back():
  ids = np.array([0, 2**31, 2**53 + 1, -1])
  words = jax.jit(lambda x: x)(to_words(ids))
  np.testing.assert_array_equal(from_words(np.asarray(words), np.int64), ids)


def test_empty_arrays_keep_their_shape():
  assert from_words(to_words(np.zeros((2, 0, 4)))).shape == (2, 0, 4)


def test_single_numbers_can_be_stacked():
  stacked = np.stack([to_words(np.int64(number)) for number in (7, -1)])
  assert from_words(stacked, np.int64).tolist() == [7, -1]
