"""python -m train.evaluate SOURCE: metrics of trained weights, with the fine branch off and on."""

import argparse
import sys

from pst_jax.commands.source import DESCRIPTION as SOURCE_HELP
from pst_jax.commands.source import add_arguments as add_source_options
from pst_jax.commands.source import read as read_source
from pst_jax.errors import refuse_empty, run_command
from train.evaluation import outputs
from train.options import make_parser
from train.processes.join import add_options, from_options, init_processes

DESCRIPTION = """\
Evaluates trained weights on a split of a data set, every example once, with each top_k of --top-k
and each rule of --selection in the same pass over the data, and prints a table and a plot. A run is
evaluated on its own data set; weights of a file take --dataset. Images are prepared as the run did,
or as the metadata of the weights say, unless the options below say otherwise.

  python -m train.evaluate runs/digits --top-k 0 1 4 8 16
  python -m train.evaluate runs/digits --top-k 1 4 --selection top_k random
  python -m train.evaluate runs/digits --details --mistakes mistakes.png --predictions digits.csv
  python -m train.evaluate runs/digit_scenes --detections found.json --pictures found.png
  python -m train.evaluate resnet50.pth --dataset imagenet2012 --data-dir /data
  python -m train.evaluate weights.safetensors --dataset imagenet2012 --split validation[:10%] \\
      --top-k 0 1 2 4 8 16 --plot sweep.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares what is evaluated, how and on which images; `evaluation.source` takes the options."""
  add = parser.add_argument
  add("source", metavar="SOURCE", help=SOURCE_HELP)
  add(
    "--top-k",
    type=int,
    nargs="+",
    metavar="K",
    help="coarse tokens that the fine branch opens, one or more values; 0: coarse attention only "
    "(default: what the config of the run says; weights of a file: 0 and 8)",
  )
  add(
    "--selection",
    nargs="+",
    metavar="RULE",
    help="rules that pick these tokens, each used with every top_k: top_k, gumbel, random, or "
    "module:function (default: what the config of the run says)",
  )
  add_source_options(parser)
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


def _parser() -> argparse.ArgumentParser:
  parser = make_parser("train.evaluate", description=DESCRIPTION)
  add_arguments(parser)
  output = parser.add_argument_group("output")
  output.add_argument(
    "--details",
    action="store_true",
    help="classification: also print a table of the classes, the confusion matrix and calibration",
  )
  outputs.add_arguments(output)
  output.add_argument("--force", action="store_true", help="replace files that exist")
  add_options(parser)
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  refuse_empty(options)
  with init_processes(from_options(options)):
    _evaluate(options)


def _evaluate(options: argparse.Namespace) -> None:
  # Late, so that --help answers at once.
  import jax
  from flax.traverse_util import flatten_dict

  from train.evaluation import report, source
  from train.processes.consistency import require_same_run, require_same_weights
  from train.tasks import registry

  # What can be found out at once must not wait for the reading.
  outputs.check(options)
  config = source.run_config(options.source)
  weights = read_source(options.source, options)
  config = source.make_config(options, config, weights)
  task = registry.find(config.task)
  files = outputs.files_of(task, config, options)
  dataset = source.open_data(weights, config)
  require_same_run(config, dataset)
  require_same_weights(flatten_dict(weights.variables, sep="/"), options.source)
  totals, metrics = source.evaluate_weights(weights, config, dataset)
  if jax.process_index() == 0:
    subject = report.Subject(options.source, weights.metadata, config, task.columns)
    notes, table = source.assumptions(weights, config, dataset), report.table(subject, metrics)
    details = report.details(task, config, totals, dataset, full=options.details)
    plot = report.text_plot(subject, metrics)
    print("\n\n".join([*notes, subject.headline, *details, table, *plot]))
    report.write_json(options.json, subject, metrics, force=options.force)
    for (option, name), path in files.items():
      task.files[option](path, totals[name], dataset, force=options.force)
    report.write_plot(options.plot, subject, metrics, force=options.force)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
