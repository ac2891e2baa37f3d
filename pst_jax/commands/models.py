"""pst_jax models: the networks, what they cost, and what each is."""

import argparse
import fnmatch
import importlib.resources
import json

from pst_jax.errors import UserError

DESCRIPTION = """\
Lists the networks with their parameters and what they compute per image. Nothing is downloaded or
run.

  pst_jax models                            all of them
  pst_jax models 'resnet*'                  those whose names match a shell pattern
  pst_jax models --summary resnet18_pst     where the parameters and FLOPs of one lie
  pst_jax models '*pst' --top-k 8           with the fine branch of PST on
"""

TABLE = "models/costs.json"
"""Costs by name, inside this package: what `tools/model_costs.py` wrote, a test compares it."""

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
  "r18-pst": "the paper's detector on ResNet-18 with PST: bottleneck blocks 2-2-2-2, SiLU",
  "r50-pst": "the paper's detector on ResNet-50 with PST",
  "r101-pst": "the paper's detector on ResNet-101 with PST",
  "yolo11n-pst": "the authors' YOLO11 detector with PST and area attention, nano",
  "yolo11s-pst": "the authors' YOLO11 detector with PST and area attention, small",
  "yolo11m-pst": "the authors' YOLO11 detector with PST and area attention, medium",
  "yolo11n": "the plain YOLO11 detector, nano: the control for yolo11n-pst",
  "yolo11s": "the plain YOLO11 detector, small: the control for yolo11s-pst",
  "yolo11m": "the plain YOLO11 detector, medium: the control for yolo11m-pst",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
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
    metavar="PIXELS",
    help="side of the image that FLOPs are counted for (default: 224; detectors: 640)",
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
  """Prints the table, the summaries, or both if both were asked for."""
  if options.summary:
    from pst_jax.models import check_model_name

    for name in options.summary:
      check_model_name(name)
  costs = stored_costs()
  if options.pattern is not None or not options.summary:
    _print_table(options.pattern or "*", costs, options)
  for name in options.summary:
    print(f"{name}: {NOTES[name]}\n{_summarize(name, costs[name], options, options.depth)}\n")


def stored_costs() -> dict[str, dict[str, int]]:
  """{name: {"parameters", "flops", "image_size", "num_classes"}} of every network.

  FLOPs are those of one image of `image_size`, with `top_k` 0.
  """
  return json.loads(importlib.resources.files("pst_jax").joinpath(TABLE).read_text())


def _image_size(cost, options):
  return cost["image_size"] if options.image_size is None else options.image_size


def _summarize(name, cost, options, depth):
  from pst_jax.models import create_model, summarize

  model = create_model(name, num_classes=cost["num_classes"], top_k=options.top_k)
  return summarize(model, _image_size(cost, options), depth=depth)


def _print_table(pattern, costs, options):
  names = fnmatch.filter(costs, pattern)
  if not names:
    raise UserError(
      f"no network matches {pattern!r}: give a pattern such as '*pst*', or one of these names: "
      f"{', '.join(costs)}"
    )
  width = max(map(len, names))
  rows = (_row(name, width, costs[name], options) for name in names)
  first = next(rows)  # A size that does not fit fails here, before anything is printed.
  print(f"{'name':{width}}  {'parameters':>10}  {'GFLOPs':>6}  {'image':>5}  what it is\n{first}")
  for row in rows:
    print(row, flush=True)
  print(
    f"\nGFLOPs of one image of that side, top_k {options.top_k}: 2 x the multiply-adds of "
    "convolutions and matrix products."
  )
  print("Parameters are those at 1000 classes, of detectors at COCO's 80.")
  print("torchvision (GFLOPS) and timm (GMACs) count the multiply-adds: half of these numbers.")


def _row(name, width, cost, options):
  parameters, flops, size = cost["parameters"], cost["flops"], _image_size(cost, options)
  if options.top_k or size != cost["image_size"]:
    summary = _summarize(name, cost, options, depth=0)
    parameters, flops = summary.parameters, summary.flops
  return f"{name:{width}}  {parameters:10,}  {flops / 1e9:6.2f}  {size:5}  {NOTES[name]}"
