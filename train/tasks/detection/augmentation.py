"""Training examples for a detector: images of one size with a table of boxes, augmented.

Each is a function of (records, index, generator): nothing is remembered from one to the next, so
that with a generator for each position in the stream it is the same for any number of hosts,
workers and restarts. Worker processes import this module: it must not import jax.
"""

import functools

import cv2
import numpy as np

from pst_jax.letterbox import Image, letterbox_geometry, loaded_size, resize
from pst_jax.preprocessing import decode_upright, upright_size
from train.data.bad_images import GoodRecords, read_image
from train.data.box_records import BoxRecord
from train.data.transforms.boxes import Objects, areas, extent, into_view, join, scale_and_move
from train.data.transforms.color import random_hsv
from train.data.transforms.copy_paste import mirrored_objects, paste
from train.data.transforms.mosaic import (
  Canvas,
  Tile,
  View,
  is_seen,
  mosaic_corner,
  render,
  visible,
)
from train.tasks.detection.config import DataConfig
from train.tasks.detection.examples import table_of_boxes

# The shares are blended half and half, nearly: Beta(32, 32).
MIXUP_ALPHA = 32.0
MOSAIC_CENTRES = (0.5, 1.5)


def training_example(
  records: GoodRecords,
  index: int,
  rng: np.random.Generator,
  options: DataConfig,
  *,
  close: bool = False,
) -> dict[str, np.ndarray]:
  """An image with boxes as the network sees it while it learns.

  Mosaic, copy-paste, scaling and moving; the same for a partner and mixup; hue, saturation and
  value; mirroring. Partners are drawn from the whole split.

  Args:
    index: of the record; crowds, boxes without area and exact duplicates are not trained on.
    rng: of this position in the stream.
    close: leave out mosaic, copy-paste and mixup, as in the last epochs.

  Returns:
    image: uint8 [image_size, image_size, 3], RGB.
    boxes: float32 [max_boxes, 4], x1, y1, x2, y2 in pixels; zeros where there is no box.
    classes: int32 [max_boxes].
    valid: bool [max_boxes].

  Raises:
    UserError: there are more boxes than `max_boxes`; or see `GoodRecords.first_good`.
  """
  image, objects = _compose(records, index, rng, options, close)
  if not close and rng.random() < options.mixup:
    partner = int(rng.integers(len(records)))
    other, more = _compose(records, partner, rng, options, close)
    share = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    image = (np.float32(share) * image + np.float32(1 - share) * other).astype(np.uint8)
    objects = join([objects, more])
  image = random_hsv(image, rng, options.hsv)
  if rng.random() < options.flip:
    image = cv2.flip(image, 1)
    objects = scale_and_move(objects, (-1, 1), (options.image_size, 0))
  name = f"the augmented example of record {index}"
  table = {"boxes": objects.boxes.astype(np.float32), "classes": objects.classes}
  return {
    "image": np.ascontiguousarray(image),
    **table_of_boxes(table, options.max_boxes, name),
  }


def training_objects(record: BoxRecord, height: int, width: int) -> Objects:
  """A record's objects in pixels of its image at this size, without those not to train on.

  The box of an object with an outline is the outline's extent.
  """
  size = np.array([width, height], np.float64)
  boxes = record["boxes"] * np.tile(size, 2)
  polygons = [[points * size for points in each] for each in record["polygons"]]
  for index, each in enumerate(polygons):
    if each and not record["crowd"][index]:
      boxes[index] = extent(each)
  usable = ~record["crowd"] & (areas(boxes) > 0)
  # A dictionary by class and box keeps one index of each.
  once = {(record["classes"][i], *boxes[i].tolist()): i for i in np.flatnonzero(usable)[::-1]}
  indices = np.array(sorted(once.values()), np.int64)
  return Objects(boxes, record["classes"], polygons).take(indices)


def _compose(records, index, rng, options, close) -> tuple[Image, Objects]:
  """Mosaic or one image, copy-paste, scaling and moving."""
  size = options.image_size
  is_mosaic = not close and rng.random() < options.mosaic
  share = 0.0 if close else options.copy_paste
  canvas_side = 2 * size if is_mosaic else size
  if is_mosaic:
    partners = rng.integers(len(records), size=3).tolist()
    centre = tuple(int(size * each) for each in rng.uniform(*MOSAIC_CENTRES, size=2))
  view = _random_view(rng, options, canvas_side)
  if is_mosaic:
    canvas = _mosaic(records, [index, *partners], centre, view, share, options)
  else:
    canvas = _single(records, index, options)
  objects = canvas.objects()
  pasted = mirrored_objects(objects, share, canvas_side)
  image = render(canvas, view)
  paste(image, canvas, view, pasted)
  objects = join([objects, pasted])
  return image, into_view(objects, view.scale, (view.move_x, view.move_y), size)


def _random_view(rng, options: DataConfig, canvas_side: int) -> View:
  scale = rng.uniform(1 - options.scale, 1 + options.scale)
  low, high = 0.5 - options.translate, 0.5 + options.translate
  centre = rng.uniform(low, high, size=2) * options.image_size
  move_x, move_y = (centre - scale * canvas_side / 2).tolist()
  return View(float(scale), move_x, move_y, options.image_size)


def _mosaic(records, indices, centre, view, share, options) -> Canvas:
  side = 2 * options.image_size

  def place(position: int, index: int) -> Tile:
    record = records.encoded[index]
    height, width = loaded_size(*read_image(record, upright_size), options.image_size)
    left, top = mosaic_corner(centre, position, height, width)
    pixels = functools.cache(lambda: resize(read_image(record, decode_upright), height, width))
    tile = Tile(left, top, height, width, pixels, training_objects(record, height, width))
    box = visible(Canvas(side, []), tile)
    if is_seen(view, side, box) or (share and is_seen(view, side, box, mirrored=True)):
      pixels()  # here, where a damaged image can still be replaced
    return tile

  tiles = [
    records.first_good(functools.partial(place, position), index)
    for position, index in enumerate(indices)
  ]
  return Canvas(side, tiles, centre)


def _single(records, index, options) -> Canvas:
  size = options.image_size

  def place(index: int) -> Tile:
    record = records.encoded[index]
    height, width = loaded_size(*read_image(record, upright_size), size)
    box = letterbox_geometry(height, width, (size, size))
    image = resize(read_image(record, decode_upright), height, width)
    objects = training_objects(record, height, width)
    return Tile(box.left, box.top, height, width, lambda: image, objects)

  return Canvas(size, [records.first_good(place, index)])
