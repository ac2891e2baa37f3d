"""python -m pst_jax predict WEIGHTS IMAGE...: the likeliest classes of images, or boxes on them."""

import argparse
import csv
import io
import itertools
import json
import math
import operator
import os
from collections import Counter
from collections.abc import Iterator

from pst_jax.commands import source, task_options
from pst_jax.commands.image_files import drawing_files, image_files
from pst_jax.errors import ImageError, UserError, describe
from pst_jax.files import check_free, write_output
from pst_jax.install import how_to_install
from pst_jax.wording import safe

DESCRIPTION = """\
Names what is on images: with a classifier the likeliest classes of each and their probabilities,
with a detector boxes (x1, y1, x2, y2 in pixels of the picture) with classes and scores. Images are
prepared as the weights' metadata say, exactly as in the evaluation of a training run: a classifier
ignores the orientation tags of cameras, a detector turns the picture upright and letterboxes it.

  python -m pst_jax predict runs/digits digit.png
  python -m pst_jax predict weights.safetensors photos/ --csv photos.csv
  python -m pst_jax predict weights.pt cat.jpg --top-k 8 --topk-overlay cat_tokens.png
  python -m pst_jax predict yolo11n_pst.pt photos/ --draw drawn --json boxes.json --score 0.4

An image that cannot be read is named at the end; the others are predicted. Needs OpenCV.
"""

SMALLEST_DRAWING = 480
"""Pixels of the long side of a drawn picture: names of boxes would hide a smaller one."""
OVERLAY_TOP_K = 8
"""Tokens that an overlay shows of weights that were trained without the fine branch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.add_argument("source", metavar="WEIGHTS", help=source.DESCRIPTION)
  parser.add_argument(
    "images", metavar="IMAGE", nargs="+", help="image files, or folders: all images in them, sorted"
  )
  parser.add_argument(
    "--top-k",
    type=int,
    metavar="K",
    help="coarse tokens that the fine branch of PST opens; 0: coarse attention alone (default: as "
    f"it was trained, or {OVERLAY_TOP_K} for an overlay)",
  )
  parser.add_argument("--selection", metavar="RULE", help=task_options.SELECTION_HELP)
  parser.add_argument(
    "--topk-overlay",
    metavar="OUT",
    help="draw over the picture which tokens each head opened and where it attended: OUT.png for "
    "one image, a folder for several",
  )
  parser.add_argument(
    "--image-size",
    type=int,
    metavar="S",
    help="side of the square that the network sees (default: as evaluated)",
  )
  classifiers = parser.add_argument_group("classifiers")
  classifiers.add_argument("--top", type=int, metavar="N", help="classes to name (default: 5)")
  detectors = task_options.add_thresholds(parser)
  detectors.add_argument(
    "--draw",
    metavar="OUT",
    help="draw the boxes with their classes: OUT.png for one image, a folder for several",
  )
  parser.add_argument("--csv", metavar="FILE", help="also write the predictions as a table")
  parser.add_argument(
    "--json",
    metavar="FILE",
    help="also write the predictions as JSON, with the tokens that were opened",
  )
  source.add_arguments(parser)
  parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace) -> None:
  """Predicts as the options of `add_arguments` say."""
  if options.top is not None and options.top < 1:
    raise UserError(f"--top is {options.top}, but it must be a whole number from 1")
  task_options.check_thresholds(options)
  # What can be found out at once must not wait for the reading.
  paths = list(image_files(options.images))
  overlays = drawing_files("--topk-overlay", options.topk_overlay, paths, "_tokens.png")
  drawings = drawing_files("--draw", options.draw, paths, "_boxes.png")
  tables = [path for path in (options.csv, options.json) if path]
  # A folder for drawings is made with the first of them.
  drawn = [file for file in (*overlays, *drawings) if file.parent.is_dir()]
  for path in (*tables, *drawn):
    check_free(path, force=options.force)
  written = Counter(map(os.path.realpath, (*tables, *overlays, *drawings)))
  if written and max(written.values()) > 1:
    raise UserError(f"{max(written, key=written.get)} would be written twice: give two names")
  answers, results, broken = _predict(options, paths, overlays, drawings)
  for path, form in ((options.csv, as_csv), (options.json, as_json)):
    if path and results:
      # Bytes of a name that are no UTF-8 are written as the code that stands for them.
      text = form(answers, results).encode(errors="backslashreplace")
      write_output(path, text, force=options.force)
  if broken:
    raise UserError(_summary(broken, len(paths)))


def _summary(broken: list[str], count: int) -> str:
  """One sentence about the images that could not be read."""
  if len(broken) == count == 1:
    return broken[0]
  others = "; the others are predicted" if len(broken) < count else ""
  more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
  return f"{len(broken)} of {count} images: {'; '.join(broken[:3])}{more}{others}"


def _predict(options, paths, overlays, drawings) -> tuple:
  """Prints the predictions and draws.

  Returns:
    What answers, what CSV and JSON hold, and a sentence about each image that could not be read.
  """
  from pst_jax.convert.metadata import described
  from pst_jax.inference.class_names import class_names
  from pst_jax.inference.predictions import compiled
  from pst_jax.inference.tasks import predictor_of
  from pst_jax.models import task_of

  try:
    import cv2  # noqa: F401
  except ImportError as error:
    raise UserError(
      f"predicting reads images with OpenCV ({error}): {how_to_install('opencv-python-headless')}"
    ) from None
  from pst_jax.commands.answers import Boxes, Classes
  from pst_jax.inference.drawing import draw_boxes, encode_png
  from pst_jax.inference.overlay import draw_overlay

  weights = source.read(options.source, options)
  facts, top_k = weights.metadata, options.top_k
  if overlays and top_k is None:
    top_k = facts.top_k or OVERLAY_TOP_K
  if overlays and top_k == 0:
    raise UserError("--topk-overlay shows the fine branch, which --top-k 0 leaves off: give 8")
  task_options.check_task(options, facts.model)
  predictor = predictor_of(
    weights,
    top_k=top_k,
    selection=options.selection,
    image_size=options.image_size,
    **task_options.thresholds(options),
  )
  count = 5 if options.top is None else options.top
  answers = {"classification": Classes(count), "detection": Boxes()}[task_of(facts.model)]
  names = class_names(facts)
  print(f"{options.source}: {described(facts)}, top_k {predictor.network.top_k}")
  _print_assumptions(facts, names, predictor.preprocessing)
  explained = bool(predictor.network.top_k and (overlays or options.json))
  network = compiled(predictor, explained=explained)
  strides = predictor.token_strides if explained else ()
  results, broken = [], []
  images = _readable(paths, answers, predictor.preprocessing, broken)
  for number, prepared, told in _one_by_one(network, images, min(answers.batch_size, len(paths))):
    told, choices = told if explained else (told, ())
    seen = answers.find(told, names)
    found = answers.on_picture(seen, prepared)
    results.append({"image": str(paths[number]), "found": found})
    if explained:
      results[-1]["opened"] = [_opened(*each) for each in zip(choices, strides, strict=True)]
    print(f"\n{safe(str(paths[number]))}")
    for line in answers.lines(found):
      print(f"  {line}".rstrip(), flush=True)
    title = paths[number].name
    if drawings:
      picture = answers.drawn(prepared.picture, title, found)
      scale = math.ceil(SMALLEST_DRAWING / max(prepared.picture.shape))
      _write_drawing(drawings[number], encode_png(draw_boxes(picture, scale)), options.force)
    if overlays:
      picture = answers.drawn(prepared.image, title, seen)
      drawing = draw_overlay(picture, choices, strides=strides, lines=answers.beside(seen))
      _write_drawing(overlays[number], encode_png(drawing), options.force)
  return answers, results, broken


def _opened(choice, stride: int) -> dict:
  """Which tokens each head of a PST module opened, for JSON."""
  tokens = [[token for token in head.tolist() if token >= 0] for head in choice.selected]
  return {"stride": stride, "tokens": tokens}


def _one_by_one(network, images, size: int) -> Iterator[tuple]:
  """(number, `Prepared`, what the network returned for it) of every image; runs full batches."""
  import jax
  import numpy as np

  while batch := list(itertools.islice(images, size)):
    stacked = np.stack([prepared.image for _, prepared in batch])
    padding = np.zeros((size - len(batch), *stacked.shape[1:]), np.uint8)
    outputs = jax.tree.map(np.asarray, network(np.concatenate([stacked, padding])))
    for i, (number, prepared) in enumerate(batch):
      yield number, prepared, jax.tree.map(operator.itemgetter(i), outputs)


def _readable(paths, answers, facts, broken: list[str]) -> Iterator[tuple]:
  """(number, `Prepared`) of the images that can be read; notes the others."""
  for number, path in enumerate(paths):
    try:
      prepared = answers.prepare(path.read_bytes(), facts)
    except OSError as error:
      broken.append(describe(error))
    except ImageError as error:
      broken.append(f"{path}: this is no image, or a damaged one ({error})")
    else:
      yield number, prepared


def _write_drawing(path, png: bytes, force: bool) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  write_output(path, png, force=force)


def _print_assumptions(facts, names, preprocessing) -> None:
  from pst_jax.inference.class_names import whose_names

  if not facts.preprocessing:
    shown = ", ".join(f"{name} {value}" for name, value in preprocessing.items())
    print(f"The weights say nothing of preprocessing: this is taken: {shown}.")
  if names is None:
    print("The weights name no classes: their numbers are printed.")
  elif facts.class_names is None:
    taken = f"there are {len(names)}, so they are taken to be {whose_names(facts)}"
    print(f"The weights name no classes: {taken}.")


def as_csv(answers, results) -> str:
  """The results as a table: a row for every class or box."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["image", "rank", *answers.columns])
  for result in results:
    for rank, each in enumerate(result["found"], start=1):
      writer.writerow([result["image"], rank, *answers.row(each)])
  return text.getvalue()


def as_json(answers, results) -> str:
  """The results as JSON: an entry for every image.

  "opened" has, for each PST module, the pixels to a side of a coarse token, as the network sees the
  image, and the tokens that each head opened, as row * columns + column.
  """
  plain = [
    {"image": r["image"], answers.key: [each._asdict() for each in r["found"]]}
    | {name: r[name] for name in ("opened",) if name in r}
    for r in results
  ]
  return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
