"""COCO 2017 from its three official zips, read in place."""

import pathlib

from pst_jax.errors import UserError
from train.data.prepare.coco import CocoSplit, parse
from train.data.prepare.image_sources import ZipSource, open_zip, read_zip

NAME = "coco2017"
ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
# Zip and folder of each split, its annotations, and its images in the whole data set.
PARTS = {
  "train": ("train2017", "annotations/instances_train2017.json", 118_287),
  "validation": ("val2017", "annotations/instances_val2017.json", 5_000),
}
COUNTS = {split: count for split, (_, _, count) in PARTS.items()}


def open_official(manual_dir: pathlib.Path, *, subset: bool = False) -> dict[str, CocoSplit]:
  """Checks the three zips of COCO 2017 and reads the annotations; the images stay where they are.

  Args:
    manual_dir: the folder that holds them under their official names.
    subset: accept a part of the images, to try the pipeline; the rest is left out in silence.

  Raises:
    UserError: a zip is missing, damaged, or holds another number of images.
  """
  sources = {}
  for split, (folder, _, count) in PARTS.items():
    source = ZipSource(manual_dir / f"{folder}.zip", folder)
    if len(source) != count and not subset:
      raise UserError(
        f"{source.path} holds {len(source):,} images, but COCO 2017 has {count:,}: download it"
        " again, or give --subset to try the pipeline with what is there"
      )
    sources[split] = source
  path = manual_dir / ANNOTATIONS_ZIP
  found = {}
  with open_zip(path) as archive:
    for split, (_, member, count) in PARTS.items():
      where = f"{path}/{member}"
      print(f"reading {where}", flush=True)
      content = parse(read_zip(archive, path, member), where)
      if len(content["images"]) != count and not subset:
        raise UserError(
          f"{where} lists {len(content['images']):,} images, but COCO 2017 has {count:,}: download"
          " it again, or give --subset"
        )
      if subset:
        content = _with_images_there(content, sources[split])
      found[split] = CocoSplit(where, content, sources[split])
  return found


def _with_images_there(content, source):
  images = [each for each in content["images"] if source.num_bytes(str(each.get("file_name")))]
  ids = {each.get("id") for each in images}
  boxes = [each for each in content["annotations"] if each.get("image_id") in ids]
  return content | {"images": images, "annotations": boxes}
