"""python -m research.seeds CONFIG: networks over several seeds, compared seed by seed."""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import sys

from pst_jax.errors import UserError, refuse_empty, run_command
from pst_jax.files import write_output
from pst_jax.wording import aligned
from train.evaluation import outputs
from train.options import make_parser

DESCRIPTION = """\
Trains each network once for every seed and evaluates it with every top_k and rule. The table has
the mean, the range, and the difference to its first row, paired by seed, with a confidence interval
of 95 % (Student's t). NAME@K trains with top_k K, so that the fine half and the gate learn too.

  python -m research.seeds digits --networks resnet18 resnet18_pst resnet18_pst@4
  python -m research.seeds fashion_mnist --train-split train[:20000] --json seeds.json

Each run has a folder in --run-dir, and what is finished there is not trained again.
"""


def _parser() -> argparse.ArgumentParser:
  parser = make_parser("research.seeds", description=DESCRIPTION)
  add = parser.add_argument
  add("config", metavar="CONFIG", help="a config of classification or detection")
  add("--networks", nargs="+", metavar="NAME", default=["resnet18", "resnet18_pst"])
  add("--seeds", type=int, default=5, metavar="N", help="how many (default: %(default)s)")
  add("--top-k", type=int, nargs="+", default=[0, 1, 4, 8], metavar="K", help="to evaluate with")
  add("--selection", nargs="+", default=["top_k"], metavar="RULE", help="likewise")
  add("--epochs", type=float, metavar="E", help="instead of the config's")
  add("--data-dir", metavar="DIR", help="likewise")
  add("--train-split", metavar="SPLIT", help="likewise, such as train[:20000]")
  add("--run-dir", default="runs/seeds", metavar="DIR", help="default: %(default)s")
  add("--json", metavar="FILE", help="also write every figure as JSON")
  add("--force", action="store_true", help="replace a file that exists")
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  refuse_empty(options)
  if options.seeds < 1:
    raise UserError(f"--seeds is {options.seeds}, but it must be 1 or more")
  outputs.check(options)
  # Late, so that --help answers at once.
  from train.config import load_file
  from train.loop import train
  from train.tasks import registry

  base = _base(load_file(options.config), options)
  column, results = registry.find(base.task).columns[0], {}
  for name in options.networks:
    for seed in range(options.seeds):
      metrics = train(_config(base, name, seed, options)).metrics
      for evaluation, values in metrics.items():
        results.setdefault((name, evaluation), []).append(column.scale * values[column.metric])
  print(table(results, column.title, options.seeds))
  if options.json:
    rows = [{"network": n, "evaluation": e, "values": v} for (n, e), v in results.items()]
    content = {"metric": column.title, "seeds": options.seeds, "rows": rows}
    write_output(options.json, f"{json.dumps(content, indent=2)}\n".encode(), force=options.force)
    print(f"written: {options.json}")


def _base(config, options):
  given = {"data_dir": options.data_dir, "train_split": options.train_split}
  data = {name: value for name, value in given.items() if value is not None}
  epochs = config.epochs if options.epochs is None else options.epochs
  return dataclasses.replace(
    config,
    epochs=epochs,
    eval_every_epochs=epochs,
    checkpoint=dataclasses.replace(config.checkpoint, every_epochs=epochs),
    data=dataclasses.replace(config.data, **data),
  )


def _config(base, name: str, seed: int, options):
  """Of one run; a network without PST is evaluated as it is."""
  from pst_jax.models import task_of
  from train.schema import EvalConfig

  network, _, trained_with = name.partition("@")
  task_of(network)  # an unknown name is an error before anything is trained
  if trained_with and not trained_with.isdecimal():
    raise UserError(f"--networks has {name}, but after the @ stands a number, such as {network}@4")
  evals = {
    f"k{k}" if rule == "top_k" or not k else f"k{k}-{rule.replace(':', '.')}": EvalConfig(k, rule)
    for k in (options.top_k if "pst" in network else [0])
    for rule in (options.selection if k else ["top_k"])
  }
  return dataclasses.replace(
    base,
    run_dir=str(pathlib.Path(options.run_dir) / f"{name}-{seed}"),
    seed=seed,
    evals=evals,
    model=dataclasses.replace(base.model, name=network, top_k=int(trained_with or 0)),
  )


def table(results: dict[tuple[str, str], list[float]], title: str, seeds: int) -> str:
  """Mean, range and paired difference to the first row of the values of each row."""
  first = next(iter(results.values()))
  rows = [("network", "evaluated", title, "least", "most", "to the first row", "95 %")]
  for (name, evaluation), values in results.items():
    mean, margin = paired(values, first)
    rows.append(
      (
        name,
        evaluation,
        *(f"{each:.2f}" for each in (statistics.mean(values), min(values), max(values))),
        "-" if values is first else f"{mean:+.2f}",
        "-" if values is first or seeds < 2 else f"{mean - margin:+.2f} .. {mean + margin:+.2f}",
      )
    )
  return aligned(rows)


def paired(values: list[float], others: list[float]) -> tuple[float, float]:
  """Mean of the differences, and half the width of its confidence interval of 95 %."""
  from scipy.stats import t  # JAX needs SciPy

  differences = [a - b for a, b in zip(values, others, strict=True)]
  mean, count = statistics.mean(differences), len(differences)
  if count < 2:
    return mean, math.nan
  error = statistics.stdev(differences) / math.sqrt(count)
  return mean, float(t.ppf(0.975, count - 1)) * error


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
