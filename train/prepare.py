"""python -m train.prepare FORM: images, however they came, become a data set for training."""

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence

from pst_jax.errors import refuse_empty, run_command
from pst_jax.files import local_folder
from train.data.prepare import box_commands
from train.options import make_parser

IMAGENET_HELP = """\
Writes ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org, ILSVRC 2012, task 1 and
2) as TFDS's imagenet2012 in array_record form, without TensorFlow: the same records in the same
order as TFDS itself, which can read them too.

Nothing is extracted: images are read where they lie in the tars, so that the data set (about
148 GB) is all that is written. The reads jump through the tars: keep them on a local SSD rather
than on a spinning disk or a mounted bucket.
"""
FOLDER_HELP = """\
Writes a folder of class folders as a data set in TFDS's array_record form:

  SOURCE/cat/1.jpg, SOURCE/dog/7.png ...            every tenth image of a class becomes a test
                                                    image, the same ones every time
  SOURCE/train/cat/1.jpg, SOURCE/val/cat/2.jpg ...  splits as given: train, and val or test

Classes are numbered by name, or in numeric order if all names are numbers (0, 1, 2, 10).
Images are files that end in .jpg, .jpeg, .png, .bmp, .webp, .tif or .tiff, also in folders inside a
class folder; files and folders whose names begin with a dot are left out.
"""
FASHION_HELP = """\
Writes Fashion-MNIST's four files as TFDS's fashion_mnist in array_record form, without TensorFlow.
Debian's package dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist.
"""
COMMON_HELP = """
The data set appears under its name only when it is whole; an interrupted run starts over. At the
end everything is read back: counts, and a checksum of each split that is the same wherever the
same images were prepared. For a data set that is there already, only this is done.
"""


LEAST_SIDE = 32
"""Below this, no network here has anything left to see."""


def main(arguments: list[str]) -> None:
  parser = make_parser(
    "train.prepare", description="Turns images into a data set that training reads."
  )
  commands = parser.add_subparsers(required=True, metavar="FORM")
  imagenet = _add_command(
    commands, "imagenet2012", "ImageNet 2012 from its two tars", IMAGENET_HELP, _find_imagenet
  )
  imagenet.add_argument("--manual-dir", required=True, metavar="DIR", help="folder of the two tars")
  _add_short_side(imagenet)
  imagenet.add_argument(
    "--subset",
    action="store_true",
    help="accept tars with some of the classes and images, to try the pipeline",
  )
  folder = _add_command(commands, "folder", "a folder of class folders", FOLDER_HELP, _find_folder)
  folder.add_argument("--source", required=True, metavar="DIR", help="folder of class folders")
  folder.add_argument("--name", required=True, help="name of the data set, for --data.dataset")
  _add_short_side(folder)
  fashion = _add_command(
    commands, "fashion_mnist", "Fashion-MNIST's four files", FASHION_HELP, _find_fashion_mnist
  )
  fashion.add_argument("--source", required=True, metavar="DIR", help="folder of the four files")
  fashion.add_argument("--subset", action="store_true", help="accept files with fewer images")
  box_commands.add_commands(functools.partial(_add_command, commands))
  options = parser.parse_args(arguments)
  refuse_empty(options)
  data_dir = local_folder(options.data_dir, "--data-dir").absolute()
  source = options.find_source(options, data_dir)
  # Imported late, so that --help answers at once.
  from train.data.prepare.command import prepare

  prepare(source, data_dir, _open_split, verify_images=options.verify_images)


def _open_split(has_boxes: bool, **place: str) -> Sequence:
  """Opens a split as training does, given the data set, its folder and the split."""
  from train.tasks.classification import data as labels
  from train.tasks.detection import data as boxes

  if has_boxes:
    return boxes.open_dataset(boxes.DataConfig(**place), 0.0, ("train",)).train
  return labels.open_dataset(labels.DataConfig(**place), ("train",)).train


def _add_command(commands, name, summary, description, find_source):
  command = commands.add_parser(
    name,
    help=summary,
    description=description + COMMON_HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.add_argument(
    "--data-dir", required=True, metavar="DIR", help="folder that will hold the data set"
  )
  command.add_argument(
    "--verify-images",
    action="store_true",
    help="also decode every image at the end: finds those that training could not read",
  )
  command.set_defaults(find_source=find_source)
  return command


def _add_short_side(command: argparse.ArgumentParser) -> None:
  command.add_argument(
    "--short-side",
    type=short_side,
    metavar="PIXELS",
    help=(
      "write training images with short sides of at most so many pixels, as JPEGs of quality 90:"
      " they are read faster in every epoch (400 for training at 224), but what they lost may cost"
      " accuracy. The data set is then NAME/short_side_PIXELS"
    ),
  )


def short_side(text: str) -> int:
  """A number of pixels."""
  if not (text.isdecimal() and int(text) >= LEAST_SIDE):
    raise argparse.ArgumentTypeError(
      f"{text!r} must be a whole number of pixels from {LEAST_SIDE}, such as 400 to train at 224"
    )
  return int(text)


def _find_imagenet(options: argparse.Namespace, data_dir: pathlib.Path):
  from train.data.prepare import imagenet, smaller
  from train.data.prepare.command import Source

  manual_dir = local_folder(options.manual_dir, "--manual-dir")
  config = smaller.builder_config(options.short_side)

  def find():
    found = imagenet.preflight(manual_dir, options.subset)
    images = len(found.validation_images)
    print(f"{found.train}: {len(found.classes):,} classes\n{found.validation}: {images:,} images")
    builder = imagenet.Imagenet2012(data_dir=data_dir, config=config, file_format="array_record")

    def write():
      splits = imagenet.index_splits(found, options.subset)
      builder.write(smaller.smaller_training(splits, options.short_side))

    # The headers of the training images, in their tars, take more than what records need.
    return images, found.num_bytes, write

  counts = None if options.subset else imagenet.COUNTS
  name = smaller.full_name(imagenet.NAME, config)
  return Source(name, find, counts, str(imagenet.Imagenet2012.VERSION))


def _find_folder(options: argparse.Namespace, data_dir: pathlib.Path):
  from train.data.prepare import folders, smaller
  from train.data.prepare.command import Source
  from train.data.prepare.writing import make_builder

  folders.check_name(options.name)
  source = local_folder(options.source, "--source")
  config = smaller.builder_config(options.short_side)

  def find():
    listing = folders.list_folder(source)
    images = sum(len(split.names) for split in listing.splits.values())
    print(f"{options.source}: {images:,} images of {len(listing.classes):,} classes")
    if listing.numeric:
      print(f"classes are numbered in numeric order: {', '.join(listing.classes[:4])}, ...")
    if listing.ignored:
      print(
        f"left out: {len(listing.ignored):,} files, e.g. {listing.ignored[0]} (hidden, in no"
        " class folder, or no image by the ending)"
      )
    num_bytes = sum(int(split.sizes.sum()) for split in listing.splits.values())
    builder = make_builder(
      options.name,
      lambda builder: folders.folder_info(builder, listing.classes),
      data_dir,
      config,
    )
    splits = smaller.smaller_training(listing.splits, options.short_side)
    return images, num_bytes, lambda: builder.write(splits)

  return Source(smaller.full_name(options.name, config), find)


def _find_fashion_mnist(options: argparse.Namespace, data_dir: pathlib.Path):
  from train.data.prepare import fashion_mnist
  from train.data.prepare.command import Source

  source = local_folder(options.source, "--source")

  def find():
    splits = fashion_mnist.read_splits(source)
    builder = fashion_mnist.FashionMnist(data_dir=data_dir, file_format="array_record")
    images = sum(len(split.images) for split in splits.values())
    num_bytes = sum(int(split.sizes.sum()) for split in splits.values())
    return images, num_bytes, lambda: builder.write(splits)

  counts = None if options.subset else fashion_mnist.COUNTS
  return Source(fashion_mnist.NAME, find, counts, str(fashion_mnist.FashionMnist.VERSION))


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
