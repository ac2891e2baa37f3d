"""python -m train.compare RUN RUN ...: runs side by side."""

import json
import math
import statistics
import sys

from pst_jax.errors import UserError, refuse_empty, run_command
from pst_jax.files import write_output
from pst_jax.wording import aligned
from train.evaluation import outputs
from train.options import make_parser
from train.run.history import History, read

DESCRIPTION = """\
Prints runs side by side: the options in which they differ, the metrics of their evaluations, and
where their time went. Runs that still train are read as far as they are.

  python -m train.compare runs/digits runs/muon
  python -m train.compare runs/* --plot runs.png --json runs.json
"""
# They say where a run lies, not what it is.
_PLACES = ("run_dir",)


def _parser():
  parser = make_parser("train.compare", description=DESCRIPTION)
  add = parser.add_argument
  add("runs", nargs="+", metavar="RUN", help="run folders")
  add("--plot", metavar="FILE", help="also draw loss and metric against steps: .png, .svg or .pdf")
  add("--json", metavar="FILE", help="also write the table as JSON")
  add("--force", action="store_true", help="replace files that exist")
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  refuse_empty(options)
  outputs.check(options)
  histories = [read(run) for run in options.runs]
  if len({each.config.task for each in histories}) > 1:
    tasks = ", ".join(f"{each.name}: {each.config.task}" for each in histories)
    raise UserError(f"the runs are of different tasks ({tasks}): compare those of one task")
  rows = differences(histories) | results(histories)
  cells = [[n, *("-" if v is None else str(v) for v in values)] for n, values in rows.items()]
  print(aligned([["", *(each.name for each in histories)], *cells]))
  if options.json:
    names = [each.name for each in histories]
    content = {name: dict(zip(names, values, strict=True)) for name, values in rows.items()}
    write_output(options.json, f"{json.dumps(content, indent=2)}\n".encode(), force=options.force)
    print(f"written: {options.json}")
  if options.plot:
    _plot(options.plot, histories, force=options.force)


def differences(histories: list[History]) -> dict[str, list]:
  """The options in which the runs differ, with each run's value; None: it has no such option."""
  from train.config_values import flatten

  flat = [flatten(each.config) for each in histories]
  names = dict.fromkeys(name for each in flat for name in each if name not in _PLACES)
  values = {name: [each.get(name) for each in flat] for name in names}
  return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


def results(histories: list[History]) -> dict[str, list]:
  """Steps, the last and the best of the task's first metric, the last loss, speed and time."""
  from train.run.timing import KINDS
  from train.tasks import registry

  rows = {"step": [each.lines[-1]["step"] for each in histories]}
  column = registry.find(histories[0].config.task).columns[0]
  evals = dict.fromkeys(name for each in histories for name in each.config.evals)
  for name in evals:
    series = [each.series(f"eval/{column.metric}_{name}") for each in histories]
    title = f"{column.title} {name}"
    rows[title] = [_scaled(column, values[-1][1]) if values else None for values in series]
    rows[f"{title}, best"] = [
      _scaled(column, max((v for _, v in values if math.isfinite(v)), default=math.nan))
      if values
      else None
      for values in series
    ]
  rows["loss"] = [_rounded(each.last("loss")) for each in histories]
  rows["images/s"] = [_median(each.series("images_per_second")) for each in histories]
  for kind, words in KINDS.items():
    seconds = [sum(v for _, v in each.series(f"{kind}_seconds")) for each in histories]
    if any(seconds):
      rows[f"s {words}"] = [round(each, 1) for each in seconds]
  return rows


def _scaled(column, value: float) -> float:
  return round(column.scale * value, column.digits)


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 4)


def _median(series: list[tuple[int, float]]) -> float | None:
  return round(statistics.median(value for _, value in series), 1) if series else None


def _plot(path: str, histories: list[History], *, force: bool) -> None:
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  from train.tasks import registry
  from train.tasks.base import save_figure

  column = registry.find(histories[0].config.task).columns[0]
  figure = Figure(figsize=(7.2, 6.4), layout="constrained")
  upper, lower = figure.subplots(2, 1, sharex=True)
  for number, history in enumerate(histories):
    colour = f"C{number % 10}"
    for index, name in enumerate(history.config.evals):
      series = history.series(f"eval/{column.metric}_{name}")
      steps, values = [step for step, _ in series], [column.scale * v for _, v in series]
      style = ("o-", "s--", "^:", "v-.")[index % 4]
      (line,) = upper.plot(steps, values, style, color=colour, markersize=3)
      several = len(history.config.evals) > 1
      line.set_label(f"{history.name}, {name}" if several else history.name)
    series = history.series("loss")
    lower.plot([step for step, _ in series], [v for _, v in series], color=colour)
  upper.set_ylabel(column.title)
  lower.set(xlabel="step", ylabel="loss in training")
  for axes in (upper, lower):
    axes.grid(alpha=0.3)
  upper.legend(fontsize=8)
  save_figure(path, figure, force=force)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
