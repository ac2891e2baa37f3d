"""python -m pst_jax predict WEIGHTS IMAGE...: the likeliest classes of images."""

import argparse
import csv
import io
import json
import pathlib
from collections.abc import Iterator

from pst_jax.commands import source

DESCRIPTION = """\
Names what is on images: the likeliest classes of each, with their probabilities. Images are
prepared as the weights' metadata say, exactly as in the evaluation of a training run (orientation
tags of cameras are ignored there too).

  python -m pst_jax predict runs/digits digit.png
  python -m pst_jax predict weights.safetensors photos/ --csv photos.csv
  python -m pst_jax predict weights.pt cat.jpg --top-k 8 --topk-overlay cat_tokens.png

Needs the extra train (OpenCV).
"""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
BATCH_SIZE = 16
OVERLAY_TOP_K = 8
"""Tokens that an overlay shows of weights that were trained without the fine branch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.description = DESCRIPTION
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
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
  parser.add_argument(
    "--topk-overlay",
    metavar="OUT",
    help="draw over the picture which tokens each head opened and where it attended: OUT.png for "
    "one image, a folder for several",
  )
  parser.add_argument(
    "--top", type=int, default=5, metavar="N", help="classes to name (default: 5)"
  )
  parser.add_argument("--csv", metavar="FILE", help="also write the predictions as a table")
  parser.add_argument("--json", metavar="FILE", help="also write the predictions as JSON")
  source.add_arguments(parser)
  parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace) -> None:
  """Predicts as the options of `add_arguments` say.

  Raises:
    ValueError, OSError: a mistake of the user.
  """
  if options.top < 1:
    raise ValueError(f"--top is {options.top}, but it must be a whole number from 1")
  # What can be found out at once must not wait for the reading.
  paths = list(_image_files(options.images))
  overlays = _overlay_files(options.topk_overlay, paths)
  tables = [path for path in (options.csv, options.json) if path]
  # A folder for overlays is made with the first of them.
  _check_free([*tables, *(file for file in overlays if file.parent.is_dir())], options.force)
  results = _predict(options, paths, overlays)
  for path, form in ((options.csv, _as_csv), (options.json, _as_json)):
    if path:
      _write(path, form(results).encode(), options.force)


def _image_files(names: list[str]) -> Iterator[pathlib.Path]:
  for name in names:
    path = pathlib.Path(name)
    if not path.exists():
      raise ValueError(f"{name}: there is no such file or folder; check the path")
    if not path.is_dir():
      yield path
      continue
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    if not found:
      raise ValueError(
        f"{name}: this folder holds no images ({', '.join(SUFFIXES)}): give one that does"
      )
    yield from found


def _overlay_files(out: str | None, paths: list[pathlib.Path]) -> list[pathlib.Path]:
  """Where the overlay of each image goes; none if none was asked for."""
  if out is None:
    return []
  is_file = pathlib.Path(out).suffix.lower() == ".png"
  if is_file and len(paths) > 1:
    raise ValueError(
      f"--topk-overlay {out} is one file, but there are {len(paths)} images: give a folder"
    )
  if is_file:
    return [pathlib.Path(out)]
  if pathlib.Path(out).is_file():
    raise ValueError(f"--topk-overlay {out} is a file, but no .png: give OUT.png or a folder")
  files = [pathlib.Path(out) / f"{path.stem}_tokens.png" for path in paths]
  twice = next((file for file in files if files.count(file) > 1), None)
  if twice:
    raise ValueError(
      f"two of the images would both be drawn as {twice}: predict them one folder at a time"
    )
  return files


def _check_free(paths: list, force: bool) -> None:
  from pst_jax.convert.atomic import check_free

  for path in paths:
    check_free(path, force=force)


def _write(path, data: bytes, force: bool) -> None:
  from pst_jax.convert.atomic import atomic_write

  with atomic_write(path, force=force) as file:
    file.write(data)


def _predict(options, paths, overlays) -> list[dict]:
  """Prints the predictions, draws the overlays, and returns what CSV and JSON hold."""
  import numpy as np

  from pst_jax.commands.convert import described
  from pst_jax.inference import Classifier
  from pst_jax.predict import class_names, compiled, likeliest

  prepare = _preparation()
  weights = source.read(options.source, options)
  facts, top_k = weights.metadata, options.top_k
  if overlays and top_k is None:
    top_k = facts.top_k or OVERLAY_TOP_K
  if overlays and top_k == 0:
    raise ValueError("--topk-overlay shows the fine branch, which --top-k 0 leaves off: give 8")
  classifier = Classifier.from_weights(weights, top_k=top_k)
  names = class_names(facts)
  print(f"{options.source}: {described(facts)}, top_k {classifier.network.top_k}")
  _print_assumptions(facts, names)
  network = compiled(classifier, explained=bool(overlays))
  results, size = [], min(BATCH_SIZE, len(paths))
  for start in range(0, len(paths), size):
    batch = paths[start : start + size]
    images = np.stack([prepare(path, classifier.preprocessing) for path in batch])
    padding = np.zeros((size - len(batch), *images.shape[1:]), np.uint8)
    outputs = network(np.concatenate([images, padding]))
    logits, choice = outputs if overlays else (outputs, None)
    for i, path in enumerate(batch):
      predictions = likeliest(np.asarray(logits[i]), names, options.top)
      results.append({"image": str(path), "predictions": predictions})
      _print(path, predictions)
      if overlays:
        tokens = [np.asarray(part[i]) for part in choice]
        drawing = _draw(images[i], tokens, classifier.network.stem, path.name, predictions)
        overlays[start + i].parent.mkdir(parents=True, exist_ok=True)
        _write(overlays[start + i], drawing, options.force)
  return results


def _preparation():
  """(path, preprocessing) -> the uint8 image that the network sees, cut as the evaluation cuts."""
  try:
    from train.config import DataConfig
    from train.data import images
  except ImportError as error:
    raise ValueError(
      f"predicting reads images with OpenCV ({error}): pip install 'pst_jax[train]'"
    ) from None

  def prepare(path, facts):
    try:
      image = images.decode(path.read_bytes())
    except ValueError as error:
      raise ValueError(f"{path}: this is no image, or a damaged one ({error})") from None
    config = DataConfig(image_size=facts["image_size"], eval_crop=facts["eval_crop"])
    return images.evaluation_crop(image, config)

  return prepare


def _draw(image, tokens, stem, title, predictions) -> bytes:
  from pst_jax.models.network import STRIDE
  from pst_jax.overlay import draw_overlay, encode_png

  drawing = draw_overlay(image, *tokens, stride=STRIDE[stem], title=title, predictions=predictions)
  return encode_png(drawing)


def _print_assumptions(facts, names) -> None:
  if facts.preprocessing is None:
    print("The weights say nothing of preprocessing: torchvision's for ImageNet is taken.")
  if facts.class_names is None and names is not None:
    print("The weights name no classes: there are 1000, so they are taken to be ImageNet's.")
  if names is None:
    print("The weights name no classes: their numbers are printed.")


def _print(path, predictions) -> None:
  print(f"\n{path}")
  for index, name, probability in predictions:
    # A file may bring any name, also one that would steer the terminal.
    shown = "".join(c if c.isprintable() else "?" for c in name or "")
    print(f"  {100 * probability:6.2f} %  {index:4d}  {shown}".rstrip(), flush=True)


def _as_csv(results) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["image", "rank", "index", "name", "probability"])
  for result in results:
    for rank, (index, name, probability) in enumerate(result["predictions"], start=1):
      writer.writerow([result["image"], rank, index, name, f"{probability:.6g}"])
  return text.getvalue()


def _as_json(results) -> str:
  plain = [
    {"image": r["image"], "predictions": [p._asdict() for p in r["predictions"]]} for r in results
  ]
  return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
