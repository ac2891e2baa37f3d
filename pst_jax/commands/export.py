"""pst_jax export RUN DEST: a network as one file to deploy: StableHLO, ONNX or TorchScript."""

import argparse

from pst_jax.commands import source, task_options
from pst_jax.errors import UserError

DESCRIPTION = """\
Exports a trained network as one file with the weights in it, BatchNorm folded into the
convolutions, for any batch size:

  --format stablehlo    runs with jax and flatbuffers alone (the default)
  --format onnx         runs with onnxruntime; needs torch, onnx and onnxscript to be written
  --format torchscript  runs with torch, in Python or C++; needs torch to be written

  import jax, jax.export
  network = jax.export.deserialize(bytearray(open("DEST", "rb").read()))
  answers = jax.jit(network.call)(images)

images are uint8 RGB [batch, size, size, 3], cropped or (for a detector) letterboxed, but not
normalised: that is inside. A classifier answers with logits, a detector with 300 places for boxes a
picture: {"boxes": [batch, 300, 4], "scores", "classes", "valid": [batch, 300]}, after non-maximum
suppression, in pixels of what it was given. The file is as large as the weights in float32.
The facts (preprocessing, class names, source) lie beside StableHLO in DEST.json; ONNX has them
inside as metadata_props, TorchScript as _extra_files: "class_names" and "facts", both JSON.
"""

FORMATS = ("stablehlo", "onnx", "torchscript")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.add_argument("source", metavar="RUN", help=source.DESCRIPTION)
  parser.add_argument("dest", metavar="DEST", help="the file to write")
  parser.add_argument(
    "--format", choices=FORMATS, default="stablehlo", help="what to write (default: %(default)s)"
  )
  parser.add_argument(
    "--top-k",
    type=int,
    metavar="K",
    help="coarse tokens that the fine branch opens; 0: coarse attention alone (default: as it was "
    "trained)",
  )
  parser.add_argument("--selection", metavar="RULE", help=task_options.SELECTION_HELP)
  parser.add_argument(
    "--platforms",
    nargs="+",
    choices=("cpu", "tpu", "cuda"),
    metavar="NAME",
    help="where StableHLO will run: cpu, tpu, cuda (default: all three, in the same file)",
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
  from pst_jax.inference import stablehlo, torch_forms
  from pst_jax.inference.tasks import predictor_of

  # What can be found out at once must not wait for the reading.
  task_options.check_thresholds(options)
  if options.format == "stablehlo":
    stablehlo.check_export_destination(options.dest, force=options.force)
  elif options.platforms:
    raise UserError(
      f"--platforms is for stablehlo, but {options.format} runs anywhere: leave it out"
    )
  else:
    torch_forms.check_export_destination(options.format, options.dest, force=options.force)
  weights = source.read(options.source, options)
  task_options.check_task(options, weights.metadata.model)
  predictor = predictor_of(
    weights,
    top_k=options.top_k,
    selection=options.selection,
    image_size=options.image_size,
    **task_options.thresholds(options),
  )
  print(f"read     {options.source}: {described(weights.metadata)}", flush=True)
  preparation, answers = predictor.in_words()
  if options.format == "stablehlo":
    platforms = options.platforms or stablehlo.PLATFORMS
    exported = stablehlo.export_predictor(predictor, platforms=platforms)
    size = stablehlo.write_export(
      options.dest, exported, predictor, weights.metadata, force=options.force
    )
    runs = f"for {', '.join(exported.platforms)}"
    given, found = f"{exported.in_avals[0]}", f"{', '.join(map(str, exported.out_avals))}: "
  else:
    size = torch_forms.write_export(
      options.format, options.dest, predictor, weights, force=options.force
    )
    side = predictor.preprocessing["image_size"]
    runs = f"as {options.format}"
    given, found = f"uint8[batch,{side},{side},3]", ""
  print(
    f"written  {options.dest}, {size / 1e6:.1f} MB: top_k {predictor.network.top_k}, {runs}\n"
    f"input    {given}, RGB, {preparation}\n"
    f"output   {found}{answers}"
  )
