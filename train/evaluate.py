"""python -m train.evaluate SOURCE: accuracy of trained weights, with the fine branch off and on."""

import argparse
import sys

from train.command import run_command
from train.distributed import add_options, from_options, joined

DESCRIPTION = """\
Evaluates trained weights on a split of a data set, every example once, with each top_k of --top-k
in the same pass over the data, and prints a table and a plot. A run is evaluated on its own data
set; weights of a file take --dataset. Images are prepared as the run did, or as the metadata of
the weights say, unless the options below say otherwise.

  python -m train.evaluate runs/digits --top-k 0 1 4 8 16
  python -m train.evaluate resnet50.pth --dataset imagenet2012 --data-dir /data
  python -m train.evaluate weights.safetensors --dataset imagenet2012 --split validation[:10%] \\
      --top-k 0 1 2 4 8 16 --plot sweep.png
"""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m train.evaluate",
    description=DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    "source",
    metavar="SOURCE",
    help="a run folder, .pt, .pth or .safetensors, or a folder that `python -m pst_jax convert` "
    "wrote",
  )
  add(
    "--top-k",
    type=int,
    nargs="+",
    metavar="K",
    help="coarse tokens that the fine branch opens, one or more values; 0: coarse attention only "
    "(default: what the config of the run says; weights of a file: 0 and 8)",
  )
  add(
    "--step",
    metavar="N",
    help="of a run folder: a step, latest, or best by top-1 (default: latest)",
  )
  add(
    "--weights",
    choices=("params", "ema"),
    help="the parameters or their moving average (default: the average where there is one)",
  )
  add("--model", metavar="NAME", help="the network, one of `python -m pst_jax models`, if need be")
  data = parser.add_argument_group("data", "Default: what the config of the run says.")
  add = data.add_argument
  add("--dataset", metavar="NAME", help="a data set prepared as array_record, digits or synthetic")
  add("--data-dir", metavar="DIR", help="folder that holds it (file: ~/tensorflow_datasets)")
  add("--split", help="which split, or a slice such as test[:10%%] (file: validation)")
  add("--batch-size", type=int, metavar="N", help="images at a time (file: 256)")
  add("--image-size", type=int, metavar="PIXELS", help="side of the images that the network sees")
  add(
    "--eval-crop",
    type=float,
    metavar="SHARE",
    help="the short side is resized to image size / SHARE, then the centre is cut out",
  )
  add("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="subtracted (scale 0 to 1)")
  add("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="divides after the mean")
  output = parser.add_argument_group("output")
  output.add_argument("--plot", metavar="FILE", help="also draw the accuracy: .png, .svg or .pdf")
  output.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
  output.add_argument("--force", action="store_true", help="replace files that exist")
  add_options(parser)
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  with joined(from_options(options), saves_on_sigterm=False):
    _evaluate(options)


def _evaluate(options: argparse.Namespace) -> None:
  # Late, so that --help answers at once.
  import jax

  from train import evaluation_report as report
  from train import evaluation_source as source

  # What can be found out at once must not wait for the reading.
  report.check_outputs(options.plot, options.json, force=options.force)
  weights = source.read(options.source, options.step, options.weights, options.model)
  config = source.make_config(options.source, weights, options.top_k, _changes(options))
  dataset = source.open_data(weights, config)
  accuracy = source.evaluate_weights(weights, config, dataset)
  if jax.process_index() == 0:
    subject = report.Subject(options.source, weights.metadata, config.data)
    parts = [*source.notes(weights, config, dataset), subject.headline, report.table(accuracy)]
    print("\n\n".join([*parts, *report.text_plot(accuracy)]))
    report.write_json(options.json, subject, accuracy, force=options.force)
    report.write_plot(options.plot, subject, accuracy, force=options.force)


def _changes(options: argparse.Namespace) -> dict:
  """Fields of the config that the options set."""
  changes = {
    "data.dataset": options.dataset,
    "data.data_dir": options.data_dir,
    "data.eval_split": options.split,
    "data.image_size": options.image_size,
    "data.eval_crop": options.eval_crop,
    "data.mean": options.mean and tuple(options.mean),
    "data.std": options.std and tuple(options.std),
    "eval_batch_size": options.batch_size,
  }
  return {name: value for name, value in changes.items() if value is not None}


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
