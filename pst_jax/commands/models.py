"""python -m pst_jax models: the networks, what they cost, and what each is."""

import argparse

from pst_jax.models import check_model_name, create_model, list_models, summarize
from pst_jax.models.summary import UNIT

DESCRIPTION = """\
Lists the networks with their parameters (at 1000 classes) and what they compute per image. Nothing
is downloaded or run.

  python -m pst_jax models                            all of them
  python -m pst_jax models 'resnet*'                  those whose names match a shell pattern
  python -m pst_jax models --summary resnet18_pst     where the parameters and FLOPs of one lie
  python -m pst_jax models '*pst' --top-k 8           with the fine branch of PST on
"""

NOTES = {
  "r18-cls-pst": "the paper's ResNet-18 with PST: bottleneck blocks 2-2-2-2 as in resnet26, SiLU",
  "r50-cls-pst": "the paper's ResNet-50 with PST: SiLU inside the blocks",
  "r101-cls-pst": "the paper's ResNet-101 with PST: SiLU inside the blocks",
  "yolo11n-cls-pst": "the authors' YOLO11 classifier with PST, nano",
  "yolo11s-cls-pst": "the authors' YOLO11 classifier with PST, small",
  "yolo11m-cls-pst": "the authors' YOLO11 classifier with PST, medium",
  "resnet18": "torchvision's ResNet-18",
  "resnet26": "bottleneck blocks 2-2-2-2, ReLU: the fair comparison for r18-cls-pst",
  "resnet34": "torchvision's ResNet-34",
  "resnet50": "torchvision's ResNet-50",
  "resnet101": "torchvision's ResNet-101",
  "resnet18_pst": "resnet18 with PST, for torchvision's weights in the backbone",
  "resnet26_pst": "resnet26 with PST",
  "resnet34_pst": "resnet34 with PST, for torchvision's weights in the backbone",
  "resnet50_pst": "resnet50 with PST, for torchvision's weights in the backbone",
  "resnet101_pst": "resnet101 with PST, for torchvision's weights in the backbone",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.description = DESCRIPTION
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument(
    "pattern",
    metavar="PATTERN",
    nargs="?",
    help="a name or a shell pattern in quotes, such as '*pst*' (default: all networks)",
  )
  parser.add_argument(
    "--summary", metavar="NAME", nargs="+", default=[], help="networks to show module by module"
  )
  parser.add_argument(
    "--depth",
    type=int,
    default=2,
    metavar="N",
    help="levels of modules in a summary (default: %(default)s)",
  )
  parser.add_argument(
    "--image-size",
    type=int,
    default=224,
    metavar="PIXELS",
    help="side of the image that FLOPs are counted for (default: %(default)s)",
  )
  parser.add_argument(
    "--top-k",
    type=int,
    default=0,
    metavar="K",
    help="coarse tokens that the fine branch of PST opens (default: %(default)s, coarse attention "
    "alone)",
  )


def run(options: argparse.Namespace) -> None:
  """Prints the table, the summaries, or both if both were asked for.

  Raises:
    ValueError: no network matches, or the image is too small or has fewer than top_k tokens.
  """
  for name in options.summary:
    check_model_name(name)
  if options.pattern is not None or not options.summary:
    _print_table(options.pattern or "*", options)
  for name in options.summary:
    print(f"{name}: {NOTES[name]}\n{_summarize(name, options, options.depth)}\n")


def _summarize(name, options, depth):
  return summarize(create_model(name, top_k=options.top_k), options.image_size, depth=depth)


def _print_table(pattern, options):
  names = list_models(pattern)
  if not names:
    raise ValueError(
      f"no network matches {pattern!r}: give a pattern such as '*pst*', or one of these names: "
      f"{', '.join(list_models())}"
    )
  width = max(len(name) for name in names)
  rows = (_row(name, width, options) for name in names)
  first = next(rows)  # A size that does not fit fails here, before anything is printed.
  print(f"{'name':{width}}  {'parameters':>10}  {'GFLOPs':>6}  what it is\n{first}")
  for row in rows:
    print(row, flush=True)
  size = options.image_size
  print(f"\n{UNIT}; image {size}x{size}, top_k {options.top_k}.")
  print("torchvision (GFLOPS) and timm (GMACs) count the multiply-adds: half of these numbers.")


def _row(name, width, options):
  summary = _summarize(name, options, depth=0)
  return f"{name:{width}}  {summary.parameters:10,}  {summary.flops / 1e9:6.2f}  {NOTES[name]}"
