"""python -m pst_jax export RUN DEST: a network as StableHLO, for deployment with JAX alone."""

import argparse

from pst_jax.commands import source, task_options

DESCRIPTION = """\
Exports a trained network as StableHLO: one file with the weights in it, BatchNorm folded into the
convolutions, for any batch size. It runs with jax and flatbuffers alone:

  import jax, jax.export
  network = jax.export.deserialize(bytearray(open("DEST", "rb").read()))
  answers = jax.jit(network.call)(images)

images are uint8 RGB [batch, size, size, 3], cropped or (for a detector) letterboxed, but not
normalised: that is inside. A classifier answers with logits, a detector with 300 places for boxes a
picture: {"boxes": [batch, 300, 4], "scores", "classes", "valid": [batch, 300]}, after non-maximum
suppression, in pixels of what it was given. The file is as large as the weights in float32.
DEST.json beside it has the facts: preprocessing, class names, source. Needs flatbuffers.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
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
  task_options.add_thresholds(parser)
  source.add_arguments(parser)
  parser.add_argument("--force", action="store_true", help="replace DEST if it exists")


def run(options: argparse.Namespace) -> None:
  """Exports as the options of `add_arguments` say; prints how to load the file.

  DEST stays as it was before where this raises UserError.
  """
  # Late, so that --help answers at once.
  from pst_jax.convert.metadata import described
  from pst_jax.inference.stablehlo import check_export_destination, export_predictor, write_export
  from pst_jax.inference.tasks import predictor_of

  # What can be found out at once must not wait for the reading.
  task_options.check_thresholds(options)
  check_export_destination(options.dest, force=options.force)
  weights = source.read(options.source, options)
  task_options.check_task(options, weights.metadata.model)
  predictor = predictor_of(
    weights,
    top_k=options.top_k,
    image_size=options.image_size,
    **task_options.thresholds(options),
  )
  print(f"read     {options.source}: {described(weights.metadata)}", flush=True)
  exported = export_predictor(predictor, platforms=options.platforms)
  size = write_export(options.dest, exported, predictor, weights.metadata, force=options.force)
  preparation, answers = predictor.in_words()
  print(
    f"written  {options.dest}, {size / 1e6:.1f} MB: top_k {predictor.network.top_k}, "
    f"for {', '.join(exported.platforms)}\n"
    f"input    {exported.in_avals[0]}, RGB, {preparation}\n"
    f"output   {', '.join(map(str, exported.out_avals))}: {answers}"
  )
