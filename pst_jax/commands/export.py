"""python -m pst_jax export RUN DEST: a network as StableHLO, for deployment with JAX alone."""

import argparse

from pst_jax.commands import source

DESCRIPTION = """\
Exports a trained network as StableHLO: one file with the weights in it, BatchNorm folded into the
convolutions, for any batch size. It runs with jax and flatbuffers alone:

  import jax, jax.export
  network = jax.export.deserialize(bytearray(open("DEST", "rb").read()))
  logits = jax.jit(network.call)(images)

images are uint8 RGB [batch, size, size, 3], cropped but not normalised: that is inside. The file is
as large as the weights in float32. DEST.json beside it has the facts: preprocessing, class names,
source. Needs the extra export.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.description = DESCRIPTION
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("source", metavar="RUN", help=source.DESCRIPTION)
  parser.add_argument("dest", metavar="DEST", help="the file to write")
  parser.add_argument(
    "--top-k",
    type=int,
    metavar="K",
    help="coarse tokens that the fine branch opens; 0: coarse attention alone (default: as it was "
    "trained)",
  )
  parser.add_argument(
    "--platforms",
    nargs="+",
    choices=("cpu", "tpu", "cuda"),
    default=["cpu", "tpu", "cuda"],
    metavar="NAME",
    help="where it will run: cpu, tpu, cuda (default: all three, in the same file)",
  )
  parser.add_argument(
    "--image-size", type=int, metavar="S", help="side of the images (default: as evaluated)"
  )
  source.add_arguments(parser)
  parser.add_argument("--force", action="store_true", help="replace DEST if it exists")


def run(options: argparse.Namespace) -> None:
  """Exports as the options of `add_arguments` say, and prints how to load the file.

  Raises:
    ValueError, OSError: a mistake of the user; DEST is as it was before.
  """
  # Late, so that --help answers at once.
  from pst_jax.commands.convert import described
  from pst_jax.export import check_export_destination, export_classifier, write_export
  from pst_jax.inference import Classifier

  # What can be found out at once must not wait for the reading.
  check_export_destination(options.dest, force=options.force)
  weights = source.read(options.source, options)
  classifier = Classifier.from_weights(weights, top_k=options.top_k)
  print(f"read     {options.source}: {described(weights.metadata)}", flush=True)
  exported = export_classifier(
    classifier, image_size=options.image_size, platforms=options.platforms
  )
  size = write_export(options.dest, exported, classifier, weights.metadata, force=options.force)
  side = exported.in_avals[0].shape[1]
  short = round(side / classifier.preprocessing["eval_crop"])
  print(
    f"written  {options.dest}, {size / 1e6:.1f} MB: top_k {classifier.network.top_k}, "
    f"for {', '.join(exported.platforms)}\n"
    f"input    uint8 [batch, {side}, {side}, 3], RGB: short side resized to {short}, then the "
    f"centre\n"
    f"output   float32 [batch, {classifier.network.num_classes}], logits"
  )
