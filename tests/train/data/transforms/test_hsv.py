import numpy as np

from train.data.transforms.color import hsv_tables, random_hsv


def test_the_tables_follow_the_formula():
  hue, saturation, value = hsv_tables((0.1, -0.5, 0.25))
  assert hue[[0, 100, 170]].tolist() == [18, 118, 8]
  assert saturation[[0, 1, 101]].tolist() == [0, 0, 50]
  assert value[[4, 101, 240]].tolist() == [5, 126, 255]


def test_grey_stays_grey():
  image = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
  changed = random_hsv(image, np.random.default_rng(0), (0.5, 0.9, 0.4))
  assert (changed[..., 0] == changed[..., 1]).all() and (changed[..., 0] == changed[..., 2]).all()


def test_no_gain_changes_nothing():
  image = np.random.default_rng(0).integers(256, size=(9, 9, 3)).astype(np.uint8)
  assert (random_hsv(image, np.random.default_rng(1), (0, 0, 0)) == image).all()
