"""The weights that a command runs: the options that choose them, and reading them."""

import argparse

from pst_jax.errors import UserError

DESCRIPTION = (
  "a run folder, .pt, .pth or .safetensors, a folder that `convert` wrote, or hf://owner/name"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options that say which of the weights at a place are meant."""
  parser.add_argument(
    "--model", metavar="NAME", help="the network, one of `python -m pst_jax models`, if need be"
  )
  parser.add_argument(
    "--step",
    metavar="N",
    help="of a run folder: a step, latest, or the best by its first evaluation (default: latest)",
  )
  parser.add_argument(
    "--weights",
    choices=("params", "ema"),
    help="the parameters or their moving average (default: the average where there is one)",
  )


def read(path: str, options: argparse.Namespace):
  """The `Weights` at `path` that the options of `add_arguments` choose; see `convert.io.read`."""
  # Late, so that --help answers at once.
  from pst_jax.convert import io

  step = options.step
  if step not in (None, "latest", "best"):
    if not (step.isascii() and step.isdigit() and len(step) < 19):
      raise UserError(f"--step is {step!r}, but it must be latest, best or the number of a step")
    step = int(step)
  ema = {None: None, "params": False, "ema": True}[options.weights]
  return io.read(path, model=options.model, step=step, ema=ema)
