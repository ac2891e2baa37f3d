"""Weights from and to anywhere: files by the library itself, folders by the trainer.

Run folders and Orbax checkpoints are the trainer's (`train.weights`, extra `train`). The library
never imports the trainer; its command line, which stands above both, does so when it is given a
folder.
"""

import os
import pathlib

from pst_jax.convert import weights as files
from pst_jax.convert.weights import WeightFile, Weights

Step = int | str
"""A step's number, or `latest` or `best`."""


def parse_step(text: str) -> Step:
  """Parses `--step`."""
  if text in ("latest", "best"):
    return text
  if not (text.isascii() and text.isdigit()):
    raise ValueError(f"--step is {text!r}, but it must be latest, best or the number of a step")
  return int(text)


def read(
  source: str | os.PathLike,
  *,
  model: str | None = None,
  step: Step | None = None,
  ema: bool | None = None,
) -> Weights:
  """Reads the weights of a run folder, a folder written by `write`, or a file.

  Args:
    source: the folder or file.
    model: see `read_weights`; a folder says itself what network it holds.
    step: of a run folder; None: the latest.
    ema: take the moving average (True), the parameters (False), or the average if there is one.

  Raises:
    FileNotFoundError: there is nothing at `source`.
    ValueError: no weights, damaged, or not the ones asked for; NaN or infinity among them.
  """
  if pathlib.Path(source).is_dir():
    which = "latest" if step is None else step
    return _trainer(source).read_folder(source, step=which, ema=ema, model=model)
  if step is not None:
    raise ValueError(f"{source}: a file holds one step: leave --step out, or give a run folder")
  return files.read_weights(source, model=model, ema=ema)


def read_as_is(source: str | os.PathLike) -> WeightFile:
  """Reads what a file or folder holds, without judging it: for a look inside."""
  if pathlib.Path(source).is_dir():
    weights = _trainer(source).load_folder(source)
    return WeightFile(
      "folder of Orbax checkpoints", weights.state_dict(), weights.metadata.to_block(), {}
    )
  return files.read_weight_file(source)


def check_destination(dest: str | os.PathLike, *, force: bool = False) -> None:
  """Raises ValueError if `write` could not write there."""
  if pathlib.Path(dest).suffix:
    files.check_destination(dest, force=force)
  else:
    _trainer(dest).check_destination(dest, force=force)


def write(dest: str | os.PathLike, weights: Weights, *, force: bool = False) -> None:
  """Writes a file by its ending, or without an ending a folder that the trainer starts from.

  Raises:
    ValueError: the place is taken and not `force`, or writing failed; nothing is half-written.
  """
  if pathlib.Path(dest).suffix:
    files.write_weights(dest, weights, force=force)
  else:
    _trainer(dest).write_folder(dest, weights, force=force)


def _trainer(path: str | os.PathLike):
  try:
    from train import weights
  except ImportError as error:
    raise ValueError(
      f"{path}: folders of checkpoints need the trainer ({error}): pip install 'pst_jax[train]'"
    ) from None
  return weights
