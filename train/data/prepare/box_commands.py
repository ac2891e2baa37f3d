"""python -m train.prepare coco | yolo | voc: the options, and what they do."""

import argparse
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence

from pst_jax.errors import UserError
from pst_jax.files import local_folder
from train.data.prepare import SPLITS

COCO_HELP = """\
Writes images with boxes in COCO's JSON form as a data set in TFDS's array_record form, without
TensorFlow:

  --manual-dir DIR                       COCO 2017, from train2017.zip, val2017.zip and
                                         annotations_trainval2017.zip (cocodataset.org), which are
                                         read in place: nothing is extracted
  --images DIR --annotations FILE        boxes of your own; every tenth image becomes a test image
  --images train=DIR test=DIR --annotations train=FILE test=FILE
                                         splits as given (train, val, test); one DIR alone serves
                                         all of them

Outlines (polygons) are kept, for copy-paste.
"""
YOLO_HELP = """\
Writes images with boxes in YOLO's form (data.yaml, images/, labels/) as a data set in TFDS's
array_record form, without TensorFlow. The splits are the data.yaml's train, val and test; label
files may hold boxes or outlines.
"""
VOC_HELP = """\
Writes images with boxes in Pascal VOC's form (JPEGImages/, Annotations/, ImageSets/Main/) as a data
set in TFDS's array_record form, without TensorFlow. The splits are train.txt, val.txt and test.txt
in ImageSets/Main.
"""
FAULTS_HELP = """
Wrong are boxes without area, outside their image, of an unknown class, or there twice, and images
that are missing or there twice. All are counted, and one of each kind is named.
"""
_SPLIT = re.compile(rf"({'|'.join(SPLITS)})=(.+)")
# What an object takes in a record, and a point of its outline.
BYTES_PER_OBJECT, BYTES_PER_POINT = 64, 8


def add_commands(add_command: Callable[..., argparse.ArgumentParser]) -> None:
  """Adds the three commands; `add_command` takes name, summary, description and function."""
  coco = add_command("coco", "COCO 2017, or boxes in COCO's form", COCO_HELP + FAULTS_HELP, _coco)
  coco.add_argument("--manual-dir", metavar="DIR", help="folder of COCO 2017's three zips")
  coco.add_argument("--images", nargs="+", metavar="DIR", help="folder of the images")
  coco.add_argument("--annotations", nargs="+", metavar="FILE", help="JSON of the boxes")
  coco.add_argument(
    "--subset",
    action="store_true",
    help="with --manual-dir: accept zips with some of the images, to try the pipeline",
  )
  yolo = add_command("yolo", "boxes in YOLO's form", YOLO_HELP + FAULTS_HELP, _yolo)
  yolo.add_argument("--data", required=True, metavar="FILE", help="the data.yaml")
  voc = add_command("voc", "boxes in Pascal VOC's form", VOC_HELP + FAULTS_HELP, _voc)
  voc.add_argument("--source", required=True, metavar="DIR", help="folder with Annotations")
  voc.add_argument(
    "--classes", nargs="+", metavar="NAME", help="of the labels; default: those in train.txt"
  )
  for command in (coco, yolo, voc):
    is_coco = command is coco
    command.add_argument(
      "--name",
      required=not is_coco,
      help="name of the data set, for --data.dataset" + is_coco * "; COCO 2017 is called coco2017",
    )
    command.add_argument(
      "--on-bad-box",
      choices=("raise", "skip"),
      help="what is wrong ends the command, or is left out"
      + " (default: raise" + is_coco * "; skip for COCO 2017, which has some" + ")",
    )  # fmt: skip


def _coco(options: argparse.Namespace, data_dir: pathlib.Path):
  from train.data.prepare import boxes, coco, coco2017

  custom = bool(options.images or options.annotations)
  if custom == bool(options.manual_dir) or bool(options.images) != bool(options.annotations):
    raise UserError("give either --manual-dir, or --images and --annotations")
  skip = options.on_bad_box == "skip"
  if not custom:
    manual_dir = local_folder(options.manual_dir, "--manual-dir")
    name = options.name or coco2017.NAME

    def listing():
      found = coco2017.open_official(manual_dir, subset=options.subset)
      return coco.list_coco(found, skip=options.on_bad_box != "raise")

    return _source(name, listing, data_dir, None if options.subset else coco2017.COUNTS)
  if not options.name:
    raise UserError("--name is missing: give the data set a name, for --data.dataset")
  images = _by_split(options.images, "--images")
  annotations = _by_split(options.annotations, "--annotations")

  def custom_listing():
    listed = coco.list_coco(coco.open_custom(images, annotations), skip=skip)
    if len(listed.splits) > 1:
      return listed
    return dataclasses.replace(listed, splits=boxes.split_off_test(listed.splits["train"]))

  return _source(options.name, custom_listing, data_dir)


def _by_split(given: Sequence[str], option: str) -> dict[str, pathlib.Path]:
  """Paths by split; a path without a split's name is that of the training split, alone."""
  if len(given) == 1 and not _SPLIT.fullmatch(given[0]):
    return {"train": local_folder(given[0], option)}
  found = {}
  for each in given:
    match = _SPLIT.fullmatch(each)
    if not match or SPLITS[match[1]] in found:
      raise UserError(
        f"{option} is {' '.join(given)}, but several must be train=PATH, val=PATH and test=PATH,"
        " each once"
      )
    found[SPLITS[match[1]]] = local_folder(match[2], option)
  if option == "--annotations" and "train" not in found:
    raise UserError(f"{option} has no split train: add train=FILE")
  return found


def _yolo(options: argparse.Namespace, data_dir: pathlib.Path):
  from train.data.prepare import yolo

  path = local_folder(options.data, "--data")
  skip = options.on_bad_box == "skip"
  return _source(options.name, lambda: yolo.list_yolo(path, skip=skip), data_dir)


def _voc(options: argparse.Namespace, data_dir: pathlib.Path):
  from train.data.prepare import voc

  source, skip = local_folder(options.source, "--source"), options.on_bad_box == "skip"
  listing = functools.partial(voc.list_voc, source, options.classes, skip=skip)
  return _source(options.name, listing, data_dir)


def _source(name: str, make_listing, data_dir: pathlib.Path, counts=None):
  from train.data.prepare import boxes
  from train.data.prepare.command import Source
  from train.data.prepare.writing import make_builder

  boxes.check_box_name(name)

  def find():
    listing = make_listing()
    for split, each in listing.splits.items():
      objects = sum(len(image.objects) for image in each.images)
      print(
        f"{split}: {len(each.images):,} images, {objects:,} boxes of"
        f" {len(listing.class_names):,} classes"
      )
    images = [image for each in listing.splits.values() for image in each.images]
    what = "Images with boxes.", listing.class_names, listing.category_ids
    builder = make_builder(name, lambda builder: boxes.box_info(builder, *what), data_dir)
    num_bytes = sum(map(_num_bytes, images))
    return len(images), num_bytes, lambda: builder.write(listing.splits)

  return Source(name, find, counts)


def _num_bytes(image) -> int:
  points = sum(len(each) for found in image.objects for each in found.polygons)
  return image.num_bytes + BYTES_PER_OBJECT * len(image.objects) + BYTES_PER_POINT * points
