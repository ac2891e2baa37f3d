"""Random images with boxes and detections, as batches and as the two files that COCO works with."""

import contextlib
import io

import numpy as np

from train.tasks.detection.mean_ap import Found, Truth

CLASSES = 4


def random_batches(seed, images=23, batch_size=5, max_boxes=12, max_found=130, grid=4, size=160):
  """Batches (image ids, truth, found, mask) full of what makes evaluators differ.

  Corners lie on a grid, so that overlaps are equal; scores have one decimal, so that ranks are; a
  fifth are crowds; areas lie on the bounds of small, medium and large; some images have no box,
  some no detection; ids are in no order; the last batch is filled up.
  """
  rng = np.random.default_rng(seed)
  ids = rng.permutation(10 * images)[: -(-images // batch_size) * batch_size]
  batches = []
  for start in range(0, images, batch_size):
    mask = np.arange(start, start + batch_size) < images
    truth_boxes = _corners(rng, batch_size, max_boxes, grid, size)
    truth = Truth(
      boxes=truth_boxes,
      classes=rng.integers(0, CLASSES, truth_boxes.shape[:2]),
      valid=np.arange(max_boxes) < rng.integers(0, max_boxes + 1, (batch_size, 1)),
      crowds=rng.random(truth_boxes.shape[:2]) < 0.2,
      areas=rng.choice([0.0, 100.0, 1024.0, 5000.0, 9216.0, 20000.0], truth_boxes.shape[:2]),
    )
    boxes = _corners(rng, batch_size, max_found, grid, size)
    copies = min(max_boxes, max_found)
    boxes[:, :copies] = truth_boxes[:, :copies] + grid * rng.integers(0, 2, (batch_size, copies, 1))
    found = Found(
      boxes=boxes.astype(np.float32),
      scores=rng.integers(0, 11, boxes.shape[:2]).astype(np.float32) / 10,
      classes=rng.integers(0, CLASSES - 1, boxes.shape[:2]),
      valid=np.arange(max_found) < rng.integers(0, max_found + 1, (batch_size, 1)),
    )
    batches.append((ids[start : start + batch_size], truth, found, mask))
  return batches


def _corners(rng, images, boxes, grid, size):
  corner = grid * rng.integers(0, size // grid, (images, boxes, 2))
  side = grid * rng.integers(0, size // (2 * grid) + 1, (images, boxes, 2))  # 0 as well
  return np.concatenate([corner, corner + side], axis=2).astype(np.float64)


def coco_files(batches):
  """(annotation file, list of detections) of the batches, as COCO writes them."""
  images, annotations, detections = [], [], []
  for ids, truth, found, mask in batches:
    for row in np.flatnonzero(mask):
      image = {"image_id": int(ids[row])}
      images.append({"id": int(ids[row])})
      for i in np.flatnonzero(truth.valid[row]):
        annotations.append(
          image
          | {
            "id": len(annotations) + 1,
            "category_id": int(truth.classes[row, i]) + 1,
            "bbox": _corner_and_size(truth.boxes[row, i]),
            "iscrowd": int(truth.crowds[row, i]),
            "area": float(truth.areas[row, i]),
          }
        )
      for i in np.flatnonzero(found.valid[row]):
        category = {"category_id": int(found.classes[row, i]) + 1}
        box = {"bbox": _corner_and_size(found.boxes[row, i]), "score": float(found.scores[row, i])}
        detections.append(image | category | box)
  categories = [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)]
  return {"images": images, "annotations": annotations, "categories": categories}, detections


def _corner_and_size(box):
  x1, y1, x2, y2 = map(float, box)
  return [x1, y1, x2 - x1, y2 - y1]


def pycocotools_evaluation(annotation_file, detections):
  """COCOeval of pycocotools for boxes, computed."""
  from pycocotools.coco import COCO
  from pycocotools.cocoeval import COCOeval

  with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO()
    truth.dataset = annotation_file
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return evaluation
