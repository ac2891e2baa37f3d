import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.boxes_made import open_box_split

from pst_jax.preprocessing import decode_upright
from train.data import digit_scenes
from train.data.box_records import box_classes
from train.data.digits import TEST_EVERY
from train.data.prepared import open_builder
from train.data.transforms.copy_paste import covered

SCENES = {"train": 40, "test": 10}


def prepare(data_dir, patch):
  patch.setattr(digit_scenes, "SCENES", SCENES)
  digit_scenes.prepare(data_dir)
  return open_builder("digit_scenes", data_dir / "digit_scenes" / "1.0.0")


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    return prepare(tmp_path_factory.mktemp("scenes"), patch)


def records(builder, split="train"):
  return list(open_box_split(builder, split, "digit_scenes"))


def test_classes_are_the_ten_digits(builder):
  assert box_classes(builder.info).names == tuple("0123456789")


def test_preparing_twice_gives_the_same_bytes(builder, tmp_path, monkeypatch):
  again = prepare(tmp_path, monkeypatch)
  for split in SCENES:
    for one, two in zip(records(builder, split), records(again, split), strict=True):
      assert (one["image"], one["file_name"]) == (two["image"], two["file_name"])
      np.testing.assert_array_equal(one["boxes"], two["boxes"])


def test_a_scene_has_up_to_twelve_digits_of_many_sizes(builder):
  found = records(builder)
  counts = {len(record["classes"]) for record in found}
  heights = np.concatenate([np.diff(each["boxes"][:, 1::2]) for each in found]) * digit_scenes.SIDE
  assert counts <= set(range(1, 13)) and len(counts) >= 4
  assert heights.min() > 15 and heights.max() < 64 and np.ptp(heights) > 25


def test_digits_hide_little_of_each_other(builder):
  for record in records(builder):
    for index in range(len(record["boxes"])):
      others = np.delete(record["boxes"], index, axis=0)
      cover = covered(record["boxes"][index : index + 1], others).max(initial=0.0)
      assert cover <= digit_scenes.LARGEST_COVER + 1e-6


def test_a_box_touches_its_digit_on_every_side():
  rng = np.random.default_rng(0)
  ink = digit_scenes._ink(rng, load_digits().images[0])
  sides = (ink[0], ink[-1], ink[:, 0], ink[:, -1])
  assert all(side.max() > digit_scenes.INK for side in sides)


def test_training_and_test_scenes_share_no_digit(monkeypatch):
  used = {}

  def note(rng, images):
    used.setdefault(len(images), images)
    return np.zeros((digit_scenes.SIDE, digit_scenes.SIDE, 3), np.uint8), np.zeros((0, 4)), []

  monkeypatch.setattr(digit_scenes, "draw_scene", note)
  monkeypatch.setattr(digit_scenes, "SCENES", {"train": 1, "test": 1})
  builder = digit_scenes.DigitScenes.__new__(digit_scenes.DigitScenes)
  for examples in builder._split_generators(None).values():
    list(examples)
  train, test = used[1437], used[360]
  assert len(train) + len(test) == len(load_digits().images)
  assert len(test) == -(-len(load_digits().images) // TEST_EVERY)
  # Every image of scikit-learn's set is in one of the two, as often as there.
  whole = np.sort([image.tobytes() for image in load_digits().images])
  parts = np.sort([image.tobytes() for image in (*train, *test)])
  np.testing.assert_array_equal(whole, parts)


def test_a_digit_looks_like_itself(builder):
  """The nearest of all training digits, in the box of a test scene's digit, is of its class."""
  digits = load_digits()
  patterns = digits.images / 16
  right, total = 0, 0
  for record in records(builder, "test"):
    image = decode_upright(record["image"]).astype(np.float32).mean(axis=2)
    for label, box in zip(record["classes"], record["boxes"] * digit_scenes.SIDE, strict=True):
      x1, y1, x2, y2 = np.round(box).astype(int)
      patch = cv2.resize(image[y1:y2, x1:x2], (6, 8), interpolation=cv2.INTER_AREA)
      best = max(
        (abs(np.corrcoef(patch.ravel(), each[:, 1:7].ravel())[0, 1]), target)
        for each, target in zip(patterns, digits.target, strict=True)
      )
      right, total = right + (best[1] == label), total + 1
  assert right / total > 0.7
