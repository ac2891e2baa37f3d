"""Scenes of scikit-learn's handwritten digits as a TFDS data set with boxes: no download.

Real digits (see `train.data.digits`) at many sizes, in ink of many colours, on drawn grounds: each
scene is a function of (split, index). The digits of the training split stand in training scenes
alone, those of the test split in test scenes.
"""

import pathlib

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from pst_jax.letterbox import Image
from train.data.digits import MAX_LEVEL, load_splits, write_once
from train.data.prepare.boxes import box_example, box_info
from train.data.prepare.labelled import LabelledImage, Object
from train.data.transforms.copy_paste import covered

NAME = "digit_scenes"
SIDE = 160
SCENES = {"train": 1500, "test": 200}
FEWEST_DIGITS, MOST_DIGITS = 3, 12
SMALLEST, LARGEST = 22, 56
# Of a digit's box at most so much may lie in another's.
LARGEST_COVER = 0.15
PLACE_TRIES = 30
# Ink and ground differ by so much in brightness, at least.
LEAST_CONTRAST = 70
# A pixel belongs to a digit if its ink covers it by more than this share.
INK = 0.25
QUALITY = 95  # of the JPEGs, of 100


class DigitScenes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Splits `train` (1,500) and `test` (200): up to twelve digits in each scene."""

  name = NAME
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    names = [str(digit) for digit in range(10)]
    description = "Scenes of handwritten digits from scikit-learn, on drawn grounds."
    return box_info(self, description, names, range(10))

  def _split_generators(self, dl_manager):
    digits, chosen = load_splits()
    return {
      split: self._generate_examples(split, digits.images[indices], digits.target[indices])
      for split, indices in chosen.items()
    }

  def _generate_examples(self, split, images, labels):
    for index in range(SCENES[split]):
      rng = np.random.default_rng((list(SCENES).index(split), index))
      scene, boxes, chosen = draw_scene(rng, images)
      name = f"{split}-{index:04d}.jpg"
      pixels = cv2.cvtColor(scene, cv2.COLOR_RGB2BGR)
      encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
      image = LabelledImage(name, index, len(encoded), (SIDE, SIDE))
      for number, (box, digit) in enumerate(zip(boxes, chosen, strict=True)):
        area = float(np.prod(box[2:] - box[:2]))
        shares = tuple((box / SIDE).tolist())
        image.objects.append(Object(shares, int(labels[digit]), number, area=area))
      yield name, box_example(image, encoded, SIDE, SIDE)


def draw_scene(
  rng: np.random.Generator, digits: Float[np.ndarray, "digits 8 8"]
) -> tuple[Image, Float[np.ndarray, "objects 4"], list[int]]:
  """A scene, the boxes of its digits in pixels, and which of `digits` they are."""
  scene = draw_ground(rng)
  boxes, chosen = np.zeros((0, 4)), []
  for _ in range(int(rng.integers(FEWEST_DIGITS, MOST_DIGITS + 1))):
    digit = int(rng.integers(len(digits)))
    ink = _ink(rng, digits[digit])
    box = _find_place(rng, boxes, *ink.shape)
    if box is None:
      continue
    x1, y1, x2, y2 = box.astype(int)
    part = scene[y1:y2, x1:x2]
    colour = _colour_on(rng, part)
    part[:] = np.round(part + ink[..., None] * (colour - part)).astype(np.uint8)
    boxes, chosen = np.concatenate([boxes, box[None]]), [*chosen, digit]
  return scene, boxes, chosen


def _ink(rng, digit: Float[np.ndarray, "8 8"]) -> Float[np.ndarray, "height width"]:
  """How much ink covers each pixel of a digit, cut to the pixels that it covers."""
  # Log-uniform: as many small digits as large ones.
  height = round(float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))))
  size = (max(SMALLEST // 2, round(height * rng.uniform(0.8, 1.1))), height)
  padded = np.pad(digit / MAX_LEVEL, 1)
  grown = cv2.resize(padded, (size[0] * 10 // 8, size[1] * 10 // 8), interpolation=cv2.INTER_CUBIC)
  ink = np.clip((grown - 0.2) / 0.5, 0, 1)
  rows, columns = (np.flatnonzero((ink > INK).any(axis=axis)) for axis in (1, 0))
  return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _find_place(rng, boxes, height: int, width: int) -> Float[np.ndarray, " 4"] | None:
  for _ in range(PLACE_TRIES):
    x, y = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
    box = np.array([[x, y, x + width, y + height]], np.float64)
    hidden = covered(boxes, box).max(initial=0.0), covered(box, boxes).max(initial=0.0)
    if max(hidden) <= LARGEST_COVER:
      return box[0]
  return None


def _colour_on(rng, ground: Image) -> Float[np.ndarray, " 3"]:
  """A random colour that is brighter or darker than the ground."""
  level = float(ground.mean())
  while True:
    colour = rng.uniform(0, 255, size=3)
    if abs(colour.mean() - level) > LEAST_CONTRAST:
      return colour


def draw_ground(rng: np.random.Generator) -> Image:
  """Soft colours, some shapes little brighter or darker than them, and grain."""
  corners = rng.uniform(40, 215, size=3) + rng.uniform(-40, 40, size=(3, 3, 3))
  ground = cv2.resize(corners.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
  for _ in range(int(rng.integers(2, 7))):
    shape = np.zeros((SIDE, SIDE), np.float32)
    _draw_shape(rng, shape)
    ground += shape[..., None] * rng.uniform(-30, 30, size=3).astype(np.float32)
  grain = rng.standard_normal((SIDE, SIDE, 1), np.float32)
  ground += grain * np.float32(rng.uniform(1, 6))
  return np.clip(np.round(ground), 0, 255).astype(np.uint8)


def _draw_shape(rng, shape: Float[np.ndarray, "side side"]) -> None:
  one, two = (tuple(int(each) for each in rng.integers(SIDE, size=2)) for _ in range(2))
  kind = int(rng.integers(3))
  if kind == 0:
    axes = tuple(int(each) for each in rng.integers(8, SIDE // 2, size=2))
    cv2.ellipse(shape, one, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_8)
  elif kind == 1:
    cv2.rectangle(shape, one, two, 1.0, -1)
  else:
    cv2.line(shape, one, two, 1.0, int(rng.integers(1, 8)), cv2.LINE_8)


def prepare(data_dir: pathlib.Path) -> None:
  """Writes the scenes under `data_dir/digit_scenes`; see `write_once`."""
  write_once(DigitScenes(data_dir=data_dir, file_format="array_record"))
