"""The weights that a command runs: the options that choose them, and reading them."""

import argparse

DESCRIPTION = "a run folder, .pt, .pth or .safetensors, or a folder that `convert` wrote"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options that say which of the weights at a place are meant."""
  parser.add_argument(
    "--model", metavar="NAME", help="the network, one of `python -m pst_jax models`, if need be"
  )
  parser.add_argument(
    "--step", metavar="N", help="of a run folder: a step, latest or best by top-1 (default: latest)"
  )
  parser.add_argument(
    "--weights",
    choices=("params", "ema"),
    help="the parameters or their moving average (default: the average where there is one)",
  )


def read(path: str, options: argparse.Namespace):
  """The `Weights` at `path` that the options of `add_arguments` choose.

  Raises:
    ValueError, OSError: there are none, or they cannot be used.
  """
  from pst_jax.commands import weights as places

  step = None if options.step is None else places.parse_step(options.step)
  ema = {None: None, "params": False, "ema": True}[options.weights]
  return places.read(path, model=options.model, step=step, ema=ema)
