"""Images with boxes, made on the spot, as records and as the files of other programs."""

import cv2
import numpy as np

from train.data.box_records import BoxRecord, ReadBoxes, box_classes
from train.data.sources import open_split


def picture(rng, height, width):
  """A smooth random picture: neighbouring pixels differ by little, as in photographs."""
  coarse = rng.integers(256, size=(8, 8, 3)).astype(np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def png(image):
  return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def record(image, boxes, classes=None, *, polygons=None, crowd=None, image_id=0, encoded=None):
  """A record of an image and boxes given in pixels."""
  height, width = image.shape[:2]
  boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  count = len(boxes)
  polygons = polygons or [[] for _ in range(count)]
  return BoxRecord(
    image=encoded or png(image),
    name=f"record {image_id}",
    file_name=f"{image_id}.png",
    image_id=image_id,
    boxes=boxes / (width, height, width, height),
    classes=np.arange(count, dtype=np.int32) if classes is None else np.array(classes, np.int32),
    crowd=np.zeros(count, bool) if crowd is None else np.array(crowd),
    area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
    polygons=tuple(
      tuple(np.asarray(points, np.float64) / (width, height) for points in each)
      for each in polygons
    ),
  )


def random_records(count, side=64, seed=0, outlines=False):
  """Pictures of many shapes with one to four boxes each."""
  rng = np.random.default_rng(seed)
  made = []
  for index in range(count):
    height, width = rng.integers(side // 2, 2 * side, size=2)
    number = rng.integers(1, 5)
    low = rng.uniform(0, 0.6, size=(number, 2)) * (width, height)
    high = low + rng.uniform(0.2, 0.4, size=(number, 2)) * (width, height)
    boxes = np.concatenate([low, high], axis=1)
    polygons = None
    if outlines:
      polygons = [[np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])] for x1, y1, x2, y2 in boxes]
    image = picture(rng, int(height), int(width))
    made.append(record(image, boxes, polygons=polygons, image_id=index))
  return made


def open_box_split(builder, split, dataset):
  """The records of a split of a data set with boxes."""
  return open_split(builder, split, dataset, ReadBoxes(len(box_classes(builder.info).names)))
