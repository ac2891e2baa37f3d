"""python -m train.plot RUN [RUN ...]: a picture of each run."""

import math
import sys

from pst_jax.errors import UserError, refuse_empty, run_command
from pst_jax.files import place
from train.evaluation import outputs
from train.options import make_parser
from train.run.history import History, read

DESCRIPTION = """\
Draws what a run logged against its steps: loss, metrics in training and evaluation, learning rate,
norm of the gradients, images per second. Each run has a picture of its own, in its folder unless
--output names another place. A run that still trains is drawn as far as it is.

  python -m train.plot runs/digits
  python -m train.plot runs/* --force
  python -m train.plot runs/digits --output digits.svg
"""


# Of a curve against the right axis, so that there is one legend.
_IN_LEGEND = [(math.nan, math.nan)]


def _parser():
  parser = make_parser("train.plot", description=DESCRIPTION)
  add = parser.add_argument
  add("runs", nargs="+", metavar="RUN", help="run folders")
  add(
    "--output",
    metavar="FILE",
    help="where to, for one run: .png, .svg or .pdf (default: plot.png in the run folder)",
  )
  add("--force", action="store_true", help="replace a picture that exists")
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  refuse_empty(options)
  if options.output and len(options.runs) > 1:
    raise UserError(
      f"--output names one file, but {len(options.runs)} runs were given: give one run, or leave "
      "out --output, for a plot.png in each run folder"
    )
  paths = [options.output or str(place(run, "RUN", ("gs",)) / "plot.png") for run in options.runs]
  # All are looked at before one is written.
  histories = [read(run) for run in options.runs]
  for path in paths:
    outputs.check_plot("--output", path, force=options.force)
  from train.tasks.base import save_figure

  for path, history in zip(paths, histories, strict=True):
    save_figure(path, draw(history), force=options.force)


def draw(history: History):
  """The figure of a run."""
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  figure = Figure(figsize=(10.5, 7.2), layout="constrained")
  figure.suptitle(f"{history.name}: {history.config.model.name} on {history.config.data.dataset}")
  axes = figure.subplots(2, 2, sharex=True)
  panels = (_loss, _metrics, _rate_and_norms, _throughput)
  for each, panel in zip(axes.flat, panels, strict=True):
    panel(each, history)
    each.grid(alpha=0.3)
    if each.get_legend_handles_labels()[0]:
      each.legend(fontsize=8)
  for each in axes[-1]:
    each.set_xlabel("step")
  return figure


def _line(axes, series, name="", style="-", scale=1.0, **options) -> None:
  """Draws a series, if there is one; a name goes to the legend."""
  if series:
    steps, values = zip(*series, strict=True)
    (line,) = axes.plot(steps, [scale * value for value in values], style, markersize=3, **options)
    if name:
      line.set_label(name)


def _loss(axes, history: History) -> None:
  _line(axes, history.series("loss"), "in training")
  for number, name in enumerate(history.config.evals, start=1):
    series = history.series(f"eval/loss_{name}")
    _line(axes, series, f"evaluation {name}", "o--", color=f"C{number % 10}")
  axes.set_ylabel("loss")


def _metrics(axes, history: History) -> None:
  from train.tasks import registry

  column = registry.find(history.config.task).columns[0]
  scale = column.scale
  _line(axes, history.series(column.metric), "in training", scale=scale, alpha=0.6)
  for number, name in enumerate(history.config.evals, start=1):
    series = history.series(f"eval/{column.metric}_{name}")
    colour = f"C{number % 10}"
    _line(axes, series, f"evaluation {name}", "o-", scale=scale, color=colour)
  axes.set_ylabel(column.title)


def _rate_and_norms(axes, history: History) -> None:
  _line(axes, history.series("learning_rate"), "learning rate")
  axes.set_ylabel("learning rate")
  norms = axes.twinx()
  groups = sorted({key for line in history.lines for key in line if key.startswith("grad_norm")})
  for number, key in enumerate(groups, start=1):
    colour = f"C{number % 10}"
    _line(norms, history.series(key), alpha=0.5, color=colour)
    _line(axes, _IN_LEGEND, key, alpha=0.5, color=colour)
  norms.set_ylabel("norm of the gradients")
  norms.set_yscale("log", nonpositive="mask")


def _throughput(axes, history: History) -> None:
  _line(axes, history.series("images_per_second"), "images/s")
  axes.set_ylabel("images/s")
  axes.set_ylim(bottom=0)
  utilization = history.series("model_flops_utilization")
  if utilization:
    shares = axes.twinx()
    _line(shares, utilization, scale=100, color="C1", alpha=0.6)
    _line(axes, _IN_LEGEND, "model FLOPs utilization", alpha=0.6, color="C1")
    shares.set_ylabel("% of the peak")
    shares.set_ylim(bottom=0)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
