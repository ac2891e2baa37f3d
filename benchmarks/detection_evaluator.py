"""CPU seconds and differences of evaluators of boxes against pycocotools, in one run on one core.

    pip install pycocotools faster-coco-eval    # faster-coco-eval is left out where it is missing
    python -m benchmarks.detection_evaluator
    python -m benchmarks.detection_evaluator --quick    # 200 images: is all in order?

A split as large as COCO's val2017: 5,000 images, 36,000 boxes of 80 classes (1 % crowds), and 100
detections on each image, a third of them near a box, scores of three decimals. Every side starts
from what the network gives it (arrays of a batch, or COCO's dictionaries) and ends with COCO's
twelve figures; the largest difference from pycocotools' is printed. The sides:

- ours: `train.tasks.detection.mean_ap`, which lets hotcoco (Rust) match the boxes;
- pycocotools, the reference (matching in Python, overlaps in C);
- faster-coco-eval (C++), whose precision of a first hit is 1 where pycocotools has 1 - 2.2e-16.
"""

import argparse
import contextlib
import io
import os
import time

import numpy as np

from train.tasks.detection.mean_ap import Found, MeanAP, Truth

CLASSES, FOUND, BATCH, SIZE = 80, 100, 50, 640


def make_batches(images: int):
  """Batches (image ids, truth, found) of random boxes and of detections around a third of them."""
  rng = np.random.default_rng(0)
  for start in range(0, images, BATCH):
    counts = rng.poisson(7.2, (BATCH, 1))
    boxes = _boxes(rng, 40)
    classes = rng.integers(0, CLASSES, (BATCH, 40))
    nearest = rng.integers(0, np.maximum(counts, 1), (BATCH, FOUND))
    sides = np.tile(np.take_along_axis(boxes[..., 2:] - boxes[..., :2], nearest[..., None], 1), 2)
    near = np.take_along_axis(boxes, nearest[..., None], 1) + 0.1 * sides * rng.normal(
      size=(BATCH, FOUND, 4)
    )
    near = np.concatenate([near[..., :2], np.maximum(near[..., 2:], near[..., :2] + 1)], 2)
    hits = (rng.random((BATCH, FOUND)) < 1 / 3) & (counts > 0)
    found = Found(
      boxes=np.where(hits[..., None], near, _boxes(rng, FOUND)).astype(np.float32),
      scores=rng.integers(1, 1000, (BATCH, FOUND)) / np.float32(1000),
      classes=np.where(
        hits, np.take_along_axis(classes, nearest, 1), rng.integers(0, CLASSES, (BATCH, FOUND))
      ),
      valid=np.ones((BATCH, FOUND), bool),
    )
    crowds = rng.random((BATCH, 40)) < 0.01
    truth = Truth(boxes, classes, np.arange(40) < counts, crowds)
    yield np.arange(start, start + BATCH), truth, found


def _boxes(rng, count):
  corner = rng.uniform(0, SIZE - 8, (BATCH, count, 2))
  return np.concatenate([corner, corner + np.exp(rng.uniform(2, 6, corner.shape))], axis=2)


def coco_files(batches):
  """The annotation file and the detections, as COCO's tools take them."""
  annotations, detections, images = [], [], []
  for ids, truth, found in batches:
    images += [{"id": int(i), "width": SIZE, "height": SIZE} for i in ids]
    for at, entry in _entries(ids, truth):
      area = entry["bbox"][2] * entry["bbox"][3]
      more = {"id": len(annotations) + 1, "area": area, "iscrowd": int(truth.crowds[at])}
      annotations.append(entry | more)
    for at, entry in _entries(ids, found):
      detections.append(entry | {"score": float(found.scores[at])})
  categories = [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)]
  return {"images": images, "annotations": annotations, "categories": categories}, detections


def _entries(ids, table):
  for row, column in np.argwhere(table.valid):
    x1, y1, x2, y2 = table.boxes[row, column].astype(float).tolist()
    yield (
      (row, column),
      {
        "image_id": int(ids[row]),
        "category_id": int(table.classes[row, column]) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
      },
    )


def ours(batches):
  metric = MeanAP(CLASSES)
  for batch in batches:
    metric = metric.update(*batch)
  return list(metric.compute().figures.values())


def with_pycocotools(annotation_file, detections):
  from pycocotools.coco import COCO
  from pycocotools.cocoeval import COCOeval

  truth = COCO()
  truth.dataset = annotation_file
  truth.createIndex()
  return _evaluated(COCOeval(truth, truth.loadRes(detections), "bbox"))


def with_faster_coco_eval(annotation_file, detections):
  from faster_coco_eval import COCO, COCOeval_faster

  truth = COCO(annotation_file)
  return _evaluated(COCOeval_faster(truth, truth.loadRes(detections), "bbox"))


def _evaluated(evaluation):
  evaluation.evaluate()
  evaluation.accumulate()
  evaluation.summarize()
  return [float(value) for value in evaluation.stats[:12]]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="200 images")
  images = 200 if parser.parse_args().quick else 5000
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  batches = list(make_batches(images))
  files = coco_files(batches)
  sides = {
    "pycocotools": lambda: with_pycocotools(*files),
    "ours": lambda: ours(batches),
    "faster-coco-eval": lambda: with_faster_coco_eval(*files),
  }
  print(f"{images} images, {len(files[0]['annotations'])} boxes, {len(files[1])} detections")
  reference, reference_seconds = None, None
  for name, side in sides.items():
    start = time.process_time()
    try:
      with contextlib.redirect_stdout(io.StringIO()):
        figures = side()
    except ImportError:
      print(f"{name:17} is not installed")
      continue
    seconds = time.process_time() - start
    reference, reference_seconds = reference or figures, reference_seconds or seconds
    worst = max(abs(a - b) for a, b in zip(figures, reference, strict=True))
    print(
      f"{name:17} {seconds:7.2f} s   {seconds / reference_seconds:6.3f} x pycocotools   mAP "
      f"{figures[0]:.4f}   largest difference {worst:.1e}"
    )


if __name__ == "__main__":
  main()
