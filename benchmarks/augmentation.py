"""Images per second of a detector's augmentation on one core, against a plain version, in one run.

    python -m benchmarks.augmentation
    python -m benchmarks.augmentation --quick    # few images: is all in order?

Both make mosaic, scaling and moving, hue, saturation and value, mirroring at 640, of the same
photographs with the same random numbers. The plain version draws the canvas of 1280 x 1280 and
warps it; this one warps each photograph straight into the result, and does not decode those that
are not seen. Once with JPEGs, and once with BMPs, where decoding hardly counts. The sides take
turns and the best of the rounds counts, so that other work on the machine hurts both alike.
"""

import time

import cv2
import numpy as np

from benchmarks.common import make_parser, photograph
from pst_jax.letterbox import loaded_size, resize
from pst_jax.preprocessing import decode_upright
from train.data.bad_images import GoodRecords
from train.data.box_records import BoxRecord
from train.data.transforms.boxes import clip, into_view, join, scale_and_move
from train.data.transforms.color import random_hsv
from train.data.transforms.mosaic import mosaic_corner
from train.tasks.detection.augmentation import training_example, training_objects
from train.tasks.detection.config import DataConfig
from train.tasks.detection.examples import table_of_boxes

NUM_PHOTOS = 64
SHAPES = ((480, 640), (427, 640), (640, 480), (612, 612))
BOXES = 7
EXAMPLES = 40
ROUNDS = 5
OPTIONS = DataConfig(copy_paste=0.0)


def photographs(ending: str) -> list[BoxRecord]:
  rng, records = np.random.default_rng(0), []
  for index in range(NUM_PHOTOS):
    height, width = SHAPES[index % len(SHAPES)]
    low = rng.uniform(0, 0.7, size=(BOXES, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, size=(BOXES, 2))], axis=1)
    records.append(
      BoxRecord(
        image=photograph(rng, height, width, ending),
        name=str(index),
        file_name=str(index),
        image_id=index,
        boxes=boxes,
        classes=np.arange(BOXES, dtype=np.int32),
        crowd=np.zeros(BOXES, bool),
        area=np.ones(BOXES),
        polygons=((),) * BOXES,
      )
    )
  return records


def plain_example(records, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """The same in the plain way; the random numbers come in the same order."""
  size = OPTIONS.image_size
  rng.random()  # whether it is a mosaic: always
  indices = [index, *rng.integers(len(records), size=3)]
  centre = tuple(int(size * each) for each in rng.uniform(0.5, 1.5, size=2))
  canvas, objects = np.full((2 * size, 2 * size, 3), 114, np.uint8), []
  for position, each in enumerate(indices):
    image = decode_upright(records[each]["image"])
    height, width = loaded_size(*image.shape[:2], size)
    image = resize(image, height, width)
    left, top = mosaic_corner(centre, position, height, width)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, 2 * size), min(top + height, 2 * size)
    canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    found = training_objects(records[each], height, width)
    objects.append(scale_and_move(found, (1, 1), (left, top)))
  scale = rng.uniform(1 - OPTIONS.scale, 1 + OPTIONS.scale)
  low, high = 0.5 - OPTIONS.translate, 0.5 + OPTIONS.translate
  move = rng.uniform(low, high, size=2) * size - scale * size
  matrix = np.array([[scale, 0, move[0]], [0, scale, move[1]]])
  image = cv2.warpAffine(canvas, matrix, (size, size), borderValue=(114, 114, 114))
  found = into_view(clip(join(objects), 2 * size, 2 * size), scale, tuple(move), size)
  rng.random()  # whether to mix: never
  image = random_hsv(image, rng, OPTIONS.hsv)
  if rng.random() < OPTIONS.flip:
    image = np.ascontiguousarray(np.fliplr(image))
    found = scale_and_move(found, (-1, 1), (size, 0))
  table = {"boxes": found.boxes.astype(np.float32), "classes": found.classes}
  return {"image": image, **table_of_boxes(table, OPTIONS.max_boxes, "plain")}


def example(records, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
  return training_example(GoodRecords(records, OPTIONS), index, rng, OPTIONS)


SIDES = {"canvas, then warp": plain_example, "straight": example}


def largest_difference(records) -> float:
  """Both make the same: the largest mean difference of an image, in grey levels."""
  worst = 0.0
  for index in range(4):
    plain, ours = (side(records, index, np.random.default_rng(index)) for side in SIDES.values())
    assert (plain["valid"] == ours["valid"]).all()
    assert np.allclose(plain["boxes"], ours["boxes"], atol=1e-3)
    difference = np.abs(plain["image"].astype(int) - ours["image"])
    worst = max(worst, float(difference.mean()))
  return worst


def rate(side, records, examples: int) -> float:
  start = time.process_time()
  for index in range(examples):
    side(records, index % len(records), np.random.default_rng(index))
  return examples / (time.process_time() - start)


def main() -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--quick", action="store_true", help="one round of few images")
  quick = parser.parse_args().quick
  cv2.setNumThreads(0)
  print(f"{'':8s}{'':20s}{'images per CPU-second':>24s}{'ratio':>8s}")
  for ending in (".jpg", ".bmp"):
    records = photographs(ending)
    difference = largest_difference(records)
    best = dict.fromkeys(SIDES, 0.0)
    for _ in range(1 if quick else ROUNDS):
      for name, side in SIDES.items():
        best[name] = max(best[name], rate(side, records, 4 if quick else EXAMPLES))
    for name, value in best.items():
      ratio = value / best["canvas, then warp"]
      print(f"{ending[1:].upper():8s}{name:20s}{value:24.1f}{ratio:8.2f}")
    print(f"        mean difference of the images: {difference:.3f} of 255 grey levels at most")


if __name__ == "__main__":
  main()
