"""A folder in the form of Pascal VOC: JPEGImages, Annotations (XML), ImageSets/Main.

Corners of boxes are numbers of pixels that count from 1 and belong to the box, as the VOC
development kit defines them: a box covers xmin - 1 to xmax of the image's width.
"""

import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from pst_jax.errors import UserError
from train.data.prepare import KEYS
from train.data.prepare.boxes import BoxImages, BoxListing, check_class_names, size_of
from train.data.prepare.folders import ENDINGS
from train.data.prepare.image_sources import FolderSource, read_file
from train.data.prepare.labelled import Faults, LabelledImage, Object, add_object, pixel_tolerance


def list_voc(source: pathlib.Path, classes: Sequence[str] | None, *, skip: bool) -> BoxListing:
  """Lists images and boxes of a folder in VOC's form, checked.

  Args:
    classes: names in the order of the labels; None: those of the training split, sorted.
    skip: leave out what is wrong and print it, instead of an error.

  Raises:
    UserError: a folder or file is missing or cannot be read, or with `skip` false anything is
      wrong.
  """
  for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
    if not (source / folder).is_dir():
      raise UserError(f"{source} has no folder {folder}, as VOC's form has: check --source")
  images = {}
  for path in sorted((source / "JPEGImages").iterdir()):
    if path.suffix.lower() in ENDINGS:
      images.setdefault(path.stem, path.name)
  stems = _splits(source, images)
  trees = {
    split: {stem: _read_xml(source / "Annotations" / f"{stem}.xml") for stem in each}
    for split, each in stems.items()
  }
  if classes is None:
    named = {_text(each, "name", "") for tree in trees["train"].values() for each in _objects(tree)}
    classes = sorted(named)
  names = check_class_names(classes, f"the training split of {source}")
  files = FolderSource(source / "JPEGImages")
  faults, splits = Faults(source, skip=skip), {}
  for faults.split, each in trees.items():
    splits[faults.split] = _list_split(each, stems[faults.split], images, files, names, faults)
  faults.settle()
  return BoxListing(splits, names, list(range(len(names))))


def _splits(source: pathlib.Path, images: dict[str, str]) -> dict[str, list[str]]:
  """Names of each split's images, as the lists have them, twice where they have one twice."""
  found = {}
  for name, split in KEYS.items():
    path = source / "ImageSets" / "Main" / f"{name}.txt"
    if path.is_file():
      lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
      names = [line.strip() for line in lines if line.strip()]
      # The lists of one class have a number behind the name, which may have blanks itself.
      found[split] = [name if name in images else name.split()[0] for name in names]
  if not found.get("train") or len(found) < 2:
    raise UserError(
      f"{source / 'ImageSets' / 'Main'} has no train.txt and val.txt or test.txt: list the names of"
      " each split's images there"
    )
  empty = next((split for split, stems in found.items() if not stems), None)
  if empty:
    raise UserError(f"{source} has an empty list for the split {empty}: fill or remove it")
  return found


def _read_xml(path: pathlib.Path) -> ElementTree.Element | None:
  if not path.exists():
    return None
  content = read_file(path)
  try:
    return ElementTree.fromstring(content)
  except (ElementTree.ParseError, ValueError) as error:
    raise UserError(f"{path} is no whole XML ({error}): repair it") from error


def _objects(tree: ElementTree.Element | None) -> list[ElementTree.Element]:
  return [] if tree is None else tree.findall("object")


def _text(element, path: str, default: str | None = None) -> str | None:
  found = element.findtext(path)
  return " ".join(found.split()) if found else default


def _list_split(trees, stems, images, files, names, faults: Faults) -> BoxImages:
  listed, difficult = {}, 0
  labels = {name: label for label, name in enumerate(names)}
  for stem in stems:
    name, tree = images.get(stem), trees[stem]
    if stem in listed:
      faults.add("duplicate images", stem)
    elif name is None or not files.num_bytes(name):
      faults.add("missing images", f"{stem}, which is not in {files}")
    elif tree is None:
      faults.add("images without annotations", f"{stem}.xml")
    else:
      size = _size(tree, stem) or size_of(files.read(name), name)
      listed[stem] = LabelledImage(name, len(listed), files.num_bytes(name), size)
      for number, element in enumerate(_objects(tree), 1):
        _add_element(listed[stem], element, number, labels, faults)
        difficult += _text(element, "difficult") == "1"
  if not listed:
    faults.settle()
    raise UserError(
      f"{faults.source}: no image of the split {faults.split} is there: check ImageSets/Main"
    )
  if difficult:
    print(f"{faults.split}: {difficult:,} objects marked as difficult are objects like all others")
  return BoxImages(list(listed.values()), files.read)


def _add_element(image: LabelledImage, element, number: int, labels, faults: Faults) -> None:
  where = f"object {number} of {image.name}"
  keys = ("xmin", "ymin", "xmax", "ymax")
  try:
    low_x, low_y, high_x, high_y = (float(element.findtext(f"bndbox/{key}")) for key in keys)
  except (TypeError, ValueError):
    raise UserError(f"{where} has no bndbox of four numbers: repair its XML") from None
  name = _text(element, "name", "")
  where += f" ({name}, {low_x:g} {low_y:g} {high_x:g} {high_y:g})"
  if name not in labels:
    faults.add("boxes of an unknown class", where)
    return
  height, width = image.size
  # One corner on the other is a click, no box of a single pixel.
  if high_x <= low_x or high_y <= low_y:
    faults.add("boxes without area", where)
    return
  box = (low_x - 1) / width, (low_y - 1) / height, high_x / width, high_y / height
  add_object(image, Object(box, labels[name], number), faults, pixel_tolerance(image.size), where)


def _size(tree: ElementTree.Element, stem: str) -> tuple[int, int] | None:
  try:
    size = int(tree.findtext("size/height", "0")), int(tree.findtext("size/width", "0"))
  except ValueError:
    raise UserError(f"{stem}.xml has a size that is no number: repair it") from None
  return size if min(size) > 0 else None  # some programs leave zeros
