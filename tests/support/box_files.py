"""Tiny data sets with boxes in the forms of COCO, YOLO and Pascal VOC, written to disk.

Each has six images, 40 pixels high and 60 wide, of which image i holds the boxes of `boxes_of(i)`.
"""

import json
import zipfile

import cv2
import numpy as np

HEIGHT, WIDTH = 40, 60
CLASSES = ("cat", "dog", "eel")
CATEGORY_IDS = (3, 7, 20)


def boxes_of(index):
  """Rows of label, x1, y1, x2, y2 in pixels; image 0 has none."""
  return [(k % 3, 5 * k + 1, 4 * k + 2, 5 * k + 21, 4 * k + 12) for k in range(index % 4)]


def jpeg(index, height=HEIGHT, width=WIDTH):
  pixels = np.full((height, width, 3), 20 * index % 256, np.uint8)
  return cv2.imencode(".jpg", pixels)[1].tobytes()


def coco_json(indices, *, width=WIDTH):
  """COCO's form; box k of image i has the area of its outline, a triangle, and the id 100 i + k."""
  annotations = []
  for index in indices:
    for k, (label, x1, y1, x2, y2) in enumerate(boxes_of(index)):
      annotations.append(
        {
          "id": 100 * index + k,
          "image_id": index + 1000,
          "category_id": CATEGORY_IDS[label],
          "bbox": [x1, y1, x2 - x1, y2 - y1],
          "area": (x2 - x1) * (y2 - y1) / 2 + 0.25,
          "iscrowd": 0,
          "segmentation": [[x1, y1, x2, y1, x1, y2]],
        }
      )
  return {
    "images": [
      {"id": index + 1000, "file_name": f"{index}.jpg", "height": HEIGHT, "width": width}
      for index in indices
    ],
    "annotations": annotations,
    "categories": [
      {"id": identity, "name": name}
      for identity, name in zip(CATEGORY_IDS[::-1], CLASSES[::-1], strict=True)
    ],
  }


def write_images(folder, indices):
  folder.mkdir(parents=True, exist_ok=True)
  for index in indices:
    (folder / f"{index}.jpg").write_bytes(jpeg(index))


def write_coco(root, change=lambda content: None):
  """Images and train.json of 0 to 3, test.json of 4 and 5; `change` edits the training JSON."""
  write_images(root / "images", range(6))
  for split, indices in (("train", range(4)), ("test", range(4, 6))):
    content = coco_json(indices)
    if split == "train":
      change(content)
    (root / f"{split}.json").write_text(json.dumps(content))
  return root


def write_coco_zips(root):
  """COCO 2017's three zips, with four training and two validation images."""
  root.mkdir(parents=True, exist_ok=True)
  parts = (("train2017", range(4)), ("val2017", range(4, 6)))
  with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w") as archive:
    for name, indices in parts:
      content = json.dumps(coco_json(indices))
      archive.writestr(f"annotations/instances_{name}.json", content)
  for name, indices in parts:
    with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
      for index in indices:
        archive.writestr(f"{name}/{index}.jpg", jpeg(index))
  return root


def write_yolo(root, change=lambda lines: lines):
  """data.yaml with train and val; `change` edits the lines of image 3's labels."""
  for split, indices in (("train", range(4)), ("val", range(4, 6))):
    write_images(root / "images" / split, indices)
    labels = root / "labels" / split
    labels.mkdir(parents=True)
    for index in indices:
      lines = [
        f"{label} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH}"
        f" {(y2 - y1) / HEIGHT}"
        for label, x1, y1, x2, y2 in boxes_of(index)
      ]
      if index == 3:
        lines = change(lines)
      (labels / f"{index}.txt").write_text("".join(f"{line}\n" for line in lines))
  names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
  (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
  return root


def write_voc(root, change=lambda text: text):
  """The three folders; `change` edits the XML of image 3."""
  write_images(root / "JPEGImages", range(6))
  for folder in ("Annotations", "ImageSets/Main"):
    (root / folder).mkdir(parents=True)
  for index in range(6):
    objects = "".join(
      f"<object><name>{CLASSES[label]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
      f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
      for label, x1, y1, x2, y2 in boxes_of(index)
    )
    text = (
      f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
      f"{objects}</annotation>"
    )
    (root / "Annotations" / f"{index}.xml").write_text(change(text) if index == 3 else text)
  for split, indices in (("train", range(4)), ("test", range(4, 6))):
    lines = "".join(f"{index}\n" for index in indices)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)
  return root
