"""python -m research.study SOURCE: what rules of selection are worth, and what they cost."""

import argparse
import json
import sys

from pst_jax.commands.source import read as read_source
from pst_jax.errors import UserError, refuse_empty, run_command
from pst_jax.files import write_output
from pst_jax.wording import aligned
from train.evaluate import add_arguments
from train.evaluation import outputs
from train.options import make_parser

DESCRIPTION = """\
Evaluates trained weights with every rule of selection and every top_k, and says beside the accuracy
what the rule opens: the share of the oracle's attention that it finds, how many tokens it has in
common with top_k, and how much they change from image to image; and what it costs.

  python -m research.study runs/digits
  python -m research.study runs/digits --top-k 1 4 --selection top_k research.rules:select_strongest
  python -m research.study weights.safetensors --dataset digits --plot study.png --json study.json
"""

RULES = ["top_k", "random", "spread", "norm", "entropy", "per_query", "oracle"]
TITLES = ("top_k", "rule", "recall %", "overlap %", "bits", "MFLOPs more", "ms/image", "ratio")


def _parser() -> argparse.ArgumentParser:
  parser = make_parser("research.study", description=DESCRIPTION)
  add_arguments(parser)
  parser.set_defaults(top_k=[0, 1, 4, 8], selection=RULES)
  output = parser.add_argument_group("study")
  add = output.add_argument
  add("--images", type=int, default=256, metavar="N", help="that choices are compared on")
  add("--rounds", type=int, default=5, metavar="N", help="of timing, whose median is told")
  add("--plot", metavar="FILE", help="also draw accuracy and recall: .png, .svg or .pdf")
  add("--json", metavar="FILE", help="also write all figures as JSON")
  add("--force", action="store_true", help="replace files that exist")
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  refuse_empty(options)
  outputs.check(options)
  for name in ("images", "rounds"):
    if getattr(options, name) < 1:
      raise UserError(f"--{name} is {getattr(options, name)}, but it must be 1 or more")
  # Late, so that --help answers at once.
  import jax

  from train.evaluation import source
  from train.tasks import registry

  config = source.run_config(options.source)
  weights = read_source(options.source, options)
  config = source.make_config(options, config, weights)
  if not any(each.top_k for each in config.evals.values()):
    raise UserError(
      f"{weights.metadata.model} has no PST module, or --top-k is 0 alone: nothing is to be studied"
    )
  dataset = source.open_data(weights, config)
  _, metrics = source.evaluate_weights(weights, config, dataset)
  column = registry.find(config.task).columns[0]
  rows = _rows(options, weights, config, dataset, metrics)
  print(f"{options.source}: {weights.metadata.model}, {config.data.eval_split} of")
  print(f"{config.data.dataset}; choices on {options.images} images, time on {_device(jax)}")
  print(_table(rows, column))
  if options.json:
    facts = {"source": options.source, "model": weights.metadata.model, "device": _device(jax)}
    content = json.dumps(facts | {"rows": rows}, indent=2) + "\n"
    write_output(options.json, content.encode(), force=options.force)
  if options.plot:
    _plot(options, rows, column)


def _device(jax) -> str:
  return jax.devices()[0].device_kind


def _rows(options, weights, config, dataset, metrics) -> list[dict]:
  """A row for each evaluation: how it is set, the metrics, the choices and the cost."""
  from pst_jax.inference.cost import Variant, measure
  from pst_jax.models import summarize
  from research.choices import quality
  from research.images import first_images

  variants = {
    name: Variant(each.top_k, each.selection or config.model.selection)
    for name, each in config.evals.items()
  }
  size = config.data.image_size
  costs = measure(
    weights.metadata.model,
    list(variants.values()),
    batch_size=min(config.eval_batch_size, 8),
    image_size=size,
    rounds=options.rounds,
    options=weights.metadata.options,
  )
  coarse_flops = summarize(weights.network(top_k=0), size).flops
  rows = []
  for (name, variant), cost in zip(variants.items(), costs, strict=True):
    network = weights.network(**variant._asdict())
    row = variant._asdict() | metrics[name]
    row["more_flops"] = summarize(network, size).flops - coarse_flops
    row["seconds_per_image"] = cost.seconds
    if variant.top_k:
      batches = first_images(options.images, config, dataset, network.dtype)
      row |= quality(network, weights.variables, batches, config.seed)._asdict()
    rows.append(row)
  return rows


def _table(rows: list[dict], column) -> str:
  first = rows[0]["seconds_per_image"]

  def cells(row):
    shares = [f"{100 * row[name]:.1f}" if name in row else "-" for name in ("recall", "overlap")]
    return [
      str(row["top_k"]),
      row["selection"] if row["top_k"] else "-",
      column.text(row),
      *shares,
      f"{row['entropy']:.2f}" if "entropy" in row else "-",
      f"{row['more_flops'] / 1e6:.2f}",
      f"{1e3 * row['seconds_per_image']:.2f}",
      f"{row['seconds_per_image'] / first:.3f}",
    ]

  titles = [*TITLES[:2], column.title, *TITLES[2:]]
  return aligned([titles, *map(cells, rows)])


def _plot(options, rows: list[dict], column) -> None:
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  from train.tasks.base import save_figure

  figure = Figure(figsize=(6.4, 5.6), layout="constrained")
  upper, lower = figure.subplots(2, 1, sharex=True)
  for rule in dict.fromkeys(row["selection"] for row in rows if row["top_k"]):
    own = [row for row in rows if row["top_k"] and row["selection"] == rule]
    top_k = [row["top_k"] for row in own]
    upper.plot(top_k, [column.scale * row[column.metric] for row in own], "o-", label=rule)
    lower.plot(top_k, [100 * row["recall"] for row in own], "o-", label=rule)
  for row in rows:
    if not row["top_k"]:
      upper.axhline(column.scale * row[column.metric], color="grey", label="coarse alone")
  upper.set_ylabel(column.title)
  lower.set_ylabel("attention found, % of the oracle's")
  lower.set_xlabel("top_k")
  upper.legend(fontsize=8)
  figure.suptitle(options.source, fontsize=9)
  save_figure(options.plot, figure, force=options.force)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
