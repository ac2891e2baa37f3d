"""The files that `train.evaluate` writes, checked before anything is read."""

import argparse
import importlib.util
import os
import pathlib

from pst_jax.errors import UserError
from pst_jax.files import check_free, place
from train.schema import Config

PLOT_FORMATS = (".png", ".svg", ".pdf")
_PLOT = ": .png, .svg or .pdf"
OUTPUTS = {
  "plot": f"draw the metrics against top_k{_PLOT}",
  "json": "write the metrics as JSON",
  "predictions": "classification: write what was answered for each image, as CSV",
  "classes": "classification: write a row for each class, as CSV",
  "confusion": f"classification: draw the confusion matrix{_PLOT}",
  "reliability": f"classification: draw accuracy against confidence{_PLOT}",
  "mistakes": "classification: draw the wrong answers that it was surest of, a .png",
  "detections": "detection: write all boxes found, as COCO's JSON",
  "precision_recall": f"detection: draw precision against recall{_PLOT}",
  "pictures": "detection: draw what was found on some images, a .png",
}
"""What the options write, by name; all but the first two are a task's own (`Task.files`)."""
_GENERAL = ("plot", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  for name, text in OUTPUTS.items():
    parser.add_argument(_option(name), metavar="FILE", help=f"also {text}")


def check(options: argparse.Namespace) -> None:
  """Raises UserError if a file that the command is to write cannot be written, or not drawn."""
  taken = {}
  for name, text in OUTPUTS.items():
    path = getattr(options, name, None)
    if path:
      if other := taken.get(os.path.realpath(path)):
        raise UserError(f"{other} and {_option(name)} are both {path}: give each a file of its own")
      taken[os.path.realpath(path)] = _option(name)
      if text.endswith(_PLOT):
        check_plot(_option(name), path, force=options.force)
      else:
        check_free(path, force=options.force)


def check_plot(option: str, path: str, *, force: bool) -> None:
  """Raises UserError if a picture cannot be written there, or not drawn."""
  check_free(path, force=force)
  if pathlib.Path(path).suffix.lower() not in PLOT_FORMATS:
    raise UserError(f"{option} is {path}, but its ending must be {', '.join(PLOT_FORMATS)}")
  if not importlib.util.find_spec("matplotlib"):
    raise UserError(
      f"{option} draws with matplotlib, which is not installed: pip install matplotlib"
    )


def files_of(task, config: Config, options: argparse.Namespace) -> dict[tuple[str, str], str]:
  """The task's own files that were asked for, by (option, evaluation).

  With several evaluations each has a file of its own, with its name before the ending.

  Raises:
    UserError: the task has no such files, or they cannot be written.
  """
  own = {name: getattr(options, name) for name in OUTPUTS if name not in _GENERAL}
  asked = {name: place(path, _option(name)) for name, path in own.items() if path}
  for name in asked:
    if name not in task.files:
      raise UserError(
        f"{_option(name)} was given, but an evaluation of {config.task} has no such file: leave it "
        "out"
      )
  files = {
    (name, each): str(path.with_stem(f"{path.stem}-{each}") if len(config.evals) > 1 else path)
    for name, path in asked.items()
    for each in config.evals
  }
  for path in files.values():
    check_free(path, force=options.force)
  return files


def _option(name: str) -> str:
  return f"--{name.replace('_', '-')}"
