"""python -m pst_jax convert SOURCE DEST: weights from one form to another, with proof."""

import argparse

from pst_jax.commands import source
from pst_jax.errors import UserError

DESCRIPTION = """\
Converts the weights of a network, and proves it: every entry is matched, and DEST is read back and
compared bit by bit. The network is recognised from the names and shapes of its entries.

SOURCE is one of
  runs/digits                a run folder of the trainer
  weights.pt, weights.pth    of PyTorch: a state dict, or a training checkpoint with a model in it,
                             such as Ultralytics' trainer writes (nothing of the file is run)
  weights.safetensors
  FOLDER                     that this command wrote
  hf://owner/name            a repository of the Hugging Face hub; hf://owner/name@revision
DEST is one of
  weights.safetensors
  weights.pt, weights.pth    a state dict for load_state_dict(strict=True); needs PyTorch
  FOLDER                     a name without an ending: an Orbax checkpoint that a training run
                             starts from (--init-from FOLDER); needs Orbax
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.add_argument("source", metavar="SOURCE", help="what to read")
  parser.add_argument("dest", metavar="DEST", help="what to write")
  source.add_arguments(parser)
  parser.add_argument(
    "--verify",
    action="store_true",
    help="run the network in Flax and in PyTorch, coarse and fine, and print how far the logits "
    "differ; needs PyTorch",
  )
  parser.add_argument("--force", action="store_true", help="replace DEST if it exists")


def run(options: argparse.Namespace) -> None:
  """Converts as the options of `add_arguments` say; prints the report.

  DEST stays as it was before where this raises UserError.
  """
  # Late, so that --help answers at once.
  from pst_jax.convert import io
  from pst_jax.convert.metadata import described
  from pst_jax.convert.verify import require_torch

  # What can be found out at once must not wait for the reading.
  io.check_destination(options.dest, force=options.force)
  if options.verify:
    require_torch()
  weights = source.read(options.source, options)
  _line("read", f"{options.source}: {described(weights.metadata)}")
  _line("entries", _matched(weights))
  if options.verify:
    _verify(weights)
  io.write(options.dest, weights, force=options.force)
  _check_written(options.dest, weights, io.read(options.dest))
  _line("written", f"{options.dest}, read back: every entry equal to the bit")


def _line(name: str, text: str) -> None:
  print(f"{name:9s}{text}", flush=True)


def _matched(weights) -> str:
  import numpy as np

  from pst_jax.convert.state_dict import COUNTER

  # Strict: it raises for an entry that is missing, left over or of another shape.
  names = weights.state_dict()
  counters = sum(name.endswith(COUNTER) for name in names)
  parameters = sum(np.size(a) for n, a in names.items() if not n.endswith((COUNTER, *_STATISTICS)))
  return (
    f"{len(names)} matched ({counters} of them counters), none missing, none left over; "
    f"{parameters:,} parameters, float32"
  )


_STATISTICS = ("running_mean", "running_var")


def _verify(weights) -> None:
  from pst_jax.convert.verify import verify

  for result in verify(weights):
    text = (
      f"top_k {result.top_k}: max |Flax - PyTorch| {result.difference:.2e} "
      f"of logits with standard deviation {result.deviation:.2e}"
    )
    if not result.is_good:
      raise UserError(f"the two networks differ ({text}), so nothing was written: report this")
    _line("verified", text)


def _check_written(dest, weights, written) -> None:
  import jax
  import numpy as np

  def is_equal(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()

  same = jax.tree.structure(weights.variables) == jax.tree.structure(written.variables) and all(
    map(is_equal, *(map(np.asarray, jax.tree.leaves(w.variables)) for w in (weights, written)))
  )
  if not same or written.metadata != weights.metadata:
    raise UserError(
      f"{dest}: what was written does not read back as it was: check the disk, then convert again "
      "with --force"
    )
