import collections
import dataclasses

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from train.config import DataConfig
from train.data.transforms import color, randaugment
from train.tasks.classification import crops as images


def smooth_noise(height=40, width=60, seed=0):
  """Coloured blobs: no sharp edges, so that interpolations agree."""
  noise = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
  blurred = cv2.GaussianBlur(noise, (0, 0), 3)
  return cv2.normalize(blurred, None, 10, 245, cv2.NORM_MINMAX)


@pytest.fixture
def image():
  return smooth_noise()


def assert_near(actual, expected, most=1):
  difference = np.abs(actual.astype(int) - np.asarray(expected).astype(int))
  assert difference.max() <= most


FACTORS = [0.1, 0.73, 1.0, 1.27, 1.9]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
  ("change", "reference"),
  [
    (color.brightness, ImageEnhance.Brightness),
    (color.contrast, ImageEnhance.Contrast),
    (color.saturation, ImageEnhance.Color),
    (color.sharpness, ImageEnhance.Sharpness),
  ],
)
def test_changes_of_colour_equal_pillows(image, change, reference, factor):
  assert_near(change(image, factor), reference(Image.fromarray(image)).enhance(factor), most=2)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.2, 0.5])
def test_the_hue_turns_and_brightness_and_saturation_stay(image, shift):
  before, after = (
    cv2.cvtColor(each, cv2.COLOR_RGB2HSV_FULL).astype(int)
    for each in (image, color.hue(image, shift))
  )
  assert_near(after[..., 2], before[..., 2])
  vivid = (before[..., 1] > 60) & (before[..., 2] > 60)  # elsewhere 8 bits do not tell the hue
  assert vivid.sum() > 100
  turned = (after[..., 0] - before[..., 0] - round(shift * 256) + 128) % 256 - 128
  assert np.abs(turned[vivid]).max() <= 4


def test_no_turn_of_the_hue_changes_rounding_alone(image):
  assert_near(color.hue(image, 0.0), image, most=6)


@pytest.mark.parametrize("bits", [0, 1, 2, 4])
def test_posterize_equals_pillows(image, bits):
  expected = ImageOps.posterize(Image.fromarray(image), 8 - bits)
  np.testing.assert_array_equal(randaugment.posterize(image, bits), expected)


@pytest.mark.parametrize("strength", [0, 76.8, 256])
def test_solarize_equals_pillows(image, strength):
  expected = ImageOps.solarize(Image.fromarray(image), 256 - strength)
  np.testing.assert_array_equal(randaugment.solarize(image, strength), expected)


def dull(seed):
  return (smooth_noise(seed=seed) // 3 + np.array([10, 60, 120])).astype(np.uint8)


@pytest.mark.parametrize("make", [dull, lambda seed: np.full((9, 7, 3), 50 + seed, np.uint8)])
def test_auto_contrast_and_equalize_equal_pillows(make):
  for seed in range(3):
    image = make(seed)
    pil = Image.fromarray(image)
    assert_near(randaugment.auto_contrast(image), ImageOps.autocontrast(pil))
    np.testing.assert_array_equal(randaugment.equalize(image), ImageOps.equalize(pil))


INSIDE = (slice(3, -3), slice(3, -3))


@pytest.mark.parametrize("degrees", [30, -12.5])
def test_rotate_equals_pillows(image, degrees):
  expected = np.asarray(Image.fromarray(image).rotate(degrees, Image.BILINEAR))
  kept = np.asarray(Image.new("L", (60, 40), 255).rotate(degrees, Image.BILINEAR))
  kept = cv2.erode(kept, np.ones((5, 5)))[INSIDE] > 0  # the two differ at the border of the black
  assert_near(randaugment.rotate(image, degrees)[INSIDE][kept], expected[INSIDE][kept], most=3)


@pytest.mark.parametrize("slope", [0.3, -0.17])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_shear_equals_pillows_affine_transform(image, slope, axis):
  coefficients = (1, slope, 0, 0, 1, 0) if axis == "x" else (1, 0, 0, slope, 1, 0)

  def reference(source):
    return np.asarray(source.transform((60, 40), Image.AFFINE, coefficients, Image.BILINEAR))

  kept = cv2.erode(reference(Image.new("L", (60, 40), 255)), np.ones((7, 7)))[INSIDE] > 0
  assert kept.mean() > 0.5
  sheared = {"x": randaugment.shear_x, "y": randaugment.shear_y}[axis](image, slope)
  # Pillow counts from the corner of the first pixel, OpenCV from its centre: half a pixel x slope.
  assert_near(sheared[INSIDE][kept], reference(Image.fromarray(image))[INSIDE][kept], most=6)


def test_translate_moves_by_whole_pixels_and_leaves_black(image):
  moved = randaugment.translate_x(image, 0.1)
  np.testing.assert_array_equal(moved[:, 6:], image[:, :-6])
  assert not moved[:, :6].any()
  moved = randaugment.translate_y(image, -0.25)
  np.testing.assert_array_equal(moved[:-10], image[10:])
  assert not moved[-10:].any()


def test_the_table_has_the_fourteen_operations_of_the_paper():
  assert set(randaugment.OPERATIONS) == {
    *("identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
  }


@pytest.mark.parametrize(
  "name", sorted(set(randaugment.OPERATIONS) - {"auto_contrast", "equalize"})
)
def test_magnitude_0_changes_nothing(image, name):
  np.testing.assert_array_equal(randaugment.OPERATIONS[name].apply(image, 0.0), image)


@pytest.mark.parametrize("name", sorted(set(randaugment.OPERATIONS) - {"identity"}))
def test_every_operation_keeps_size_and_type_and_changes_something(name):
  image, operation = dull(0), randaugment.OPERATIONS[name]
  for value in {operation.strongest, -operation.strongest if operation.signed else 0.0} - {0.0}:
    changed = operation.apply(image, value)
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    assert not np.array_equal(changed, image)


def test_each_operation_and_sign_comes_equally_often(monkeypatch):
  seen = collections.Counter()
  recorded = {
    name: operation._replace(
      apply=lambda image, value, name=name: (seen.update([(name, value)]), image)[1]
    )
    for name, operation in randaugment.OPERATIONS.items()
  }
  monkeypatch.setattr(randaugment, "OPERATIONS", recorded)
  rng = np.random.default_rng(0)
  for _ in range(7000):
    randaugment.randaugment(np.zeros((2, 2, 3), np.uint8), rng, 2, 9)
  by_name = collections.Counter()
  for (name, value), count in seen.items():
    assert abs(value) == pytest.approx(0.3 * randaugment.OPERATIONS[name].strongest)
    by_name[name] += count
    if randaugment.OPERATIONS[name].signed:
      assert 400 < count < 600
  assert all(850 < by_name[name] < 1150 for name in recorded)


def test_the_strength_of_an_operation_varies_by_the_deviation(monkeypatch):
  seen = []
  recorded = randaugment.Operation(lambda image, value: (seen.append(value), image)[1], 1.0, False)
  monkeypatch.setattr(randaugment, "OPERATIONS", {"recorded": recorded})
  rng = np.random.default_rng(0)
  for _ in range(1000):
    randaugment.randaugment(np.zeros((2, 2, 3), np.uint8), rng, 2, 27, 3)
  strengths = 30 * np.array(seen)
  assert strengths.max() == pytest.approx(30)
  assert np.median(strengths) == pytest.approx(27, abs=0.2)
  assert np.percentile(strengths, 16) == pytest.approx(24, abs=0.3)


def test_jitter_draws_factors_from_its_range_in_random_order(monkeypatch):
  seen = []
  names = ("brightness", "contrast", "saturation", "hue")
  recorded = tuple(
    lambda image, value, name=name: (seen.append((name, value)), image)[1] for name in names
  )
  monkeypatch.setattr(color, "JITTER", recorded)
  monkeypatch.setattr(color, "hue", recorded[3])
  rng = np.random.default_rng(0)
  for _ in range(1000):
    color.jitter(np.zeros((2, 2, 3), np.uint8), rng, (0.4, 1.5, 0.2, 0.1))
  ranges = {
    "brightness": (0.6, 1.4),
    "contrast": (0, 2.5),
    "saturation": (0.8, 1.2),
    "hue": (-0.1, 0.1),
  }
  for name, (low, high) in ranges.items():
    values = [value for seen_name, value in seen if seen_name == name]
    assert len(values) == 1000
    assert low <= min(values) < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < max(values) <= high
  first = collections.Counter(name for name, _ in seen[::4])
  assert all(200 < first[name] < 300 for name in names)


def test_a_change_of_strength_0_is_left_out(image):
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(color.jitter(image, rng, (0.0, 0.0, 0.0, 0.0)), image)
  gray = color.jitter(cv2.cvtColor(image[..., 0], cv2.COLOR_GRAY2RGB), rng, (0.5, 0.5, 0.0, 0.0))
  assert (gray == gray[..., :1]).all()  # a turned hue or saturation would not change gray either
  assert not np.array_equal(gray[..., 0], image[..., 0])


@pytest.mark.parametrize(
  "options",
  [
    {"randaugment_layers": 2},
    {"randaugment_layers": 3, "randaugment_magnitude": 30.0, "crop": "shift", "max_shift": 4},
    {"color_jitter": (0.4, 0.4, 0.4, 0.1)},
    {"randaugment_layers": 1, "color_jitter": (0.0, 0.0, 2.0, 0.5), "crop": "none"},
  ],
)
def test_a_training_image_depends_on_the_generator_alone(options):
  config = DataConfig(image_size=32, **options)
  plain = dataclasses.replace(config, randaugment_layers=0, color_jitter=(0.0,) * 4)
  changed = 0
  for seed in range(20):
    one, other, unchanged = (
      images.training_image(smooth_noise(), np.random.default_rng(seed), each)
      for each in (config, config, plain)
    )
    assert (one.shape, one.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_array_equal(one, other)
    changed += not np.array_equal(one, unchanged)
  assert changed >= 15  # not all: identity is one of the operations
