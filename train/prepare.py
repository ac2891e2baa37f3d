"""python -m train.prepare imagenet2012 | folder: images become a data set that training reads."""

import argparse
import pathlib
import shlex
import sys

from train.command import run_command
from train.config import ConfigError
from train.paths import local_folder

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

Images are files that end in .jpg, .jpeg, .png, .bmp, .webp, .tif or .tiff, also in folders inside a
class folder; files and folders whose names begin with a dot are left out.
"""
COMMON_HELP = """
The data set appears under its name only when it is whole; an interrupted run starts over. At the
end everything is read back: counts, and a digest of each split that is the same wherever the same
images were prepared. For a data set that is there already, only this is done.
"""


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m train.prepare",
    description="Turns images into a data set that training reads.",
  )
  commands = parser.add_subparsers(required=True, metavar="imagenet2012 | folder")
  imagenet = _add_command(
    commands, "imagenet2012", "ImageNet 2012 from its two tars", IMAGENET_HELP, _prepare_imagenet
  )
  imagenet.add_argument("--manual-dir", required=True, metavar="DIR", help="folder of the two tars")
  imagenet.add_argument(
    "--subset",
    action="store_true",
    help="accept tars with some of the classes and images, to try the pipeline",
  )
  folder = _add_command(
    commands, "folder", "a folder of class folders", FOLDER_HELP, _prepare_folder
  )
  folder.add_argument("--source", required=True, metavar="DIR", help="folder of class folders")
  folder.add_argument("--name", required=True, help="name of the data set, for --data.dataset")
  options = parser.parse_args(arguments)
  options.run(options, local_folder(options.data_dir, "--data-dir").absolute())


def _add_command(commands, name, summary, description, run):
  command = commands.add_parser(
    name,
    help=summary,
    description=description + COMMON_HELP,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.add_argument(
    "--data-dir", required=True, metavar="DIR", help="folder that will hold the data set"
  )
  command.set_defaults(run=run)
  return command


def _prepare_imagenet(options: argparse.Namespace, data_dir: pathlib.Path) -> None:
  # Late, so that --help answers at once.
  from train.data import imagenet
  from train.data.writing import claim

  manual_dir = local_folder(options.manual_dir, "--manual-dir")
  version = str(imagenet.Imagenet2012.VERSION)
  with claim(data_dir / imagenet.NAME):
    folder = data_dir / imagenet.NAME / version
    if not folder.exists():
      found = imagenet.preflight(manual_dir, options.subset)
      print(
        f"{found.train}: {len(found.classes):,} classes\n"
        f"{found.validation}: {len(found.validation_images):,} images"
      )
      # The headers of the training images, in their tars, take more than what records need.
      _check_space(folder.parent, len(found.validation_images), found.num_bytes)
      splits = imagenet.index_splits(found, options.subset)
      builder = imagenet.Imagenet2012(data_dir=data_dir, file_format="array_record")
      builder.write(splits)
    _report(imagenet.NAME, version, data_dir, None if options.subset else imagenet.COUNTS)


def _prepare_folder(options: argparse.Namespace, data_dir: pathlib.Path) -> None:
  from train.data import folders
  from train.data.writing import claim

  folders.check_name(options.name)
  source = local_folder(options.source, "--source")
  version = str(folders.FOLDER_VERSION)
  with claim(data_dir / options.name):
    folder = data_dir / options.name / version
    if not folder.exists():
      listing = folders.list_folder(source)
      images = sum(len(split.names) for split in listing.splits.values())
      print(f"{options.source}: {images:,} images of {len(listing.classes):,} classes")
      if listing.ignored:
        print(
          f"left out: {len(listing.ignored):,} files, e.g. {listing.ignored[0]} (hidden, in no"
          " class folder, or no image by the ending)"
        )
      num_bytes = sum(int(split.sizes.sum()) for split in listing.splits.values())
      _check_space(folder.parent, images, num_bytes)
      folders.make_builder(options.name, listing.classes, data_dir).write(listing.splits)
    _report(options.name, version, data_dir)


def _check_space(folder: pathlib.Path, images: int, image_bytes: int) -> None:
  from train.data.writing import require_space

  needed, free = require_space(folder, images, image_bytes)
  print(f"{folder}: {needed / 1e9:,.2f} GB will be written, {free / 1e9:,.1f} GB are free")


def _report(name, version, data_dir, expected_counts=None):
  from train.data.verify import verify

  folder = data_dir / name / version
  verified = verify(name, version, data_dir)
  counts = {split: result.images for split, result in verified.items()}
  if expected_counts and counts != expected_counts:
    have, want = (
      ", ".join(f"{split} {count:,}" for split, count in each.items())
      for each in (counts, expected_counts)
    )
    raise ConfigError(
      f"{folder} holds {have} images, but the whole data set has {want}: remove that folder to"
      " prepare it again, or give --subset to keep it"
    )
  print(f"\n{folder}")
  print("split            images      image bytes  SHA-256 of names, labels and images")
  for split, result in verified.items():
    print(f"{split:<12} {result.images:>10,} {result.image_bytes:>16,}  {result.digest}")
  evaluated = "validation" if "validation" in verified else "test"
  print(
    f"\nNext:\n  python -m train CONFIG --data.dataset {name} --data.data-dir"
    f" {shlex.quote(str(data_dir))} --data.eval-split {evaluated}"
  )


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
