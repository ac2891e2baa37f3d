"""What an evaluation reports: a table, a plot against top_k, JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from pst_jax.convert.metadata import Metadata
from pst_jax.convert.metadata import described as metadata_line
from pst_jax.files import write_output
from train.data.sources import Dataset
from train.schema import Config, EvalConfig
from train.tasks.base import Column, Task, save_figure

_WIDTH = 50
"""Characters of the text plot."""

Metrics = dict[str, dict[str, float]]
"""As `evaluator.evaluate` returns them."""


def described(evaluation: EvalConfig) -> str:
  """How an evaluation is set, in words."""
  rule = f" and {evaluation.selection} selection" if evaluation.selection else ""
  return f"top_k={evaluation.top_k}{rule}"


@dataclasses.dataclass(frozen=True)
class Subject:
  """What was evaluated."""

  source: str  # the run or file
  weights: Metadata
  config: Config  # on which images, and how
  columns: tuple[Column, ...]  # of the task

  @property
  def headline(self) -> str:
    data = self.config.data
    return (
      f"{self.source}: {metadata_line(self.weights)}\n"
      f"split {data.eval_split} of {data.dataset}, images of {data.image_size}x{data.image_size}"
    )


def details(
  task: Task, config: Config, totals: Mapping[str, Any], dataset: Dataset, *, full: bool
) -> list[str]:
  """What the task has to say of each evaluation, below its name where there are several."""
  kinds = [task.details, *([task.more_details] if full else [])]
  texts = {
    name: "\n\n".join(filter(None, (kind(total, config, dataset) for kind in kinds)))
    for name, total in totals.items()
  }
  heads = {name: f"{described(config.evals[name])}:\n" if len(texts) > 1 else "" for name in texts}
  return [heads[name] + text for name, text in texts.items() if text]


def table(subject: Subject, metrics: Metrics) -> str:
  """A line for each evaluation; names and rules stand there where they say more than top_k."""
  evals = {name: subject.config.evals[name] for name in metrics}
  cells = {"top_k": [f"{each.top_k:5d}" for each in evals.values()]}
  if any(each.selection for each in evals.values()):
    default = subject.config.model.selection
    cells["selection"] = [each.selection or default for each in evals.values()]
  if not all(name.startswith(f"k{each.top_k}") for name, each in evals.items()):
    cells["evaluation"] = list(evals)
  for column in subject.columns:
    cells[column.title.rjust(max(8, len(column.title) + 2))] = [
      column.text(values) for values in metrics.values()
    ]
  widths = [max(len(title), *map(len, column)) for title, column in cells.items()]
  rows = [list(cells), *zip(*cells.values(), strict=True)]
  return "\n".join(
    " ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
  )


def text_plot(subject: Subject, metrics: Metrics) -> list[str]:
  """A plot of the first metric against top_k for the terminal; nothing for a single value."""
  if len(metrics) < 2:
    return []
  main, evals = subject.columns[0], subject.config.evals
  names = sorted(metrics, key=lambda name: evals[name].top_k)
  rules = [evals[name].selection for name in names]
  before = max(map(len, rules)) + 1 if any(rules) else 0
  values = [main.scale * metrics[name][main.metric] for name in names]
  low, high = _axis(values)
  ends = f"{low:g}", f"{high:g}"
  indent = " " * (before + 6)
  lines = [f"top_k   {main.title}", indent + ends[0] + ends[1].rjust(_WIDTH + 1 - len(ends[0]))]
  for name, rule, value in zip(names, rules, values, strict=True):
    bar = "*".rjust(round((value - low) / (high - low) * (_WIDTH - 1)) + 1, "-").ljust(_WIDTH)
    lines.append(f"{evals[name].top_k:5d} {rule.ljust(before)}|{bar}| {main.text(metrics[name])}")
  return ["\n".join(lines)]


def _axis(values: list[float]) -> tuple[float, float]:
  """Round ends that hold all percentages; half a point apart or more, to keep noise small."""
  span = max(max(values) - min(values), 0.5)
  step = 10 ** math.floor(math.log10(span))
  low = math.floor(min(values) / step) * step
  high = max(math.ceil(max(values) / step) * step, low + step)
  return round(low, 6), round(high, 6)


def write_json(path: str | None, subject: Subject, metrics: Metrics, *, force: bool) -> None:
  """Writes all metrics; nothing without a path."""
  if path:
    config = subject.config
    content = {
      "source": subject.source,
      "model": subject.weights.model,
      "step": subject.weights.step,
      "weights": subject.weights.weights,
      "dataset": config.data.dataset,
      "split": config.data.eval_split,
      "image_size": config.data.image_size,
      "eval_crop": getattr(config.data, "eval_crop", None),
      "accuracy": [
        {
          "name": name,
          "top_k": config.evals[name].top_k,
          "selection": config.evals[name].selection or config.model.selection,
          **values,
        }
        for name, values in metrics.items()
      ],
    }
    write_output(path, json.dumps(content, indent=2).encode() + b"\n", force=force)
    print(f"written: {path}")


def write_plot(path: str | None, subject: Subject, metrics: Metrics, *, force: bool) -> None:
  """Draws the task's metrics against top_k with matplotlib; nothing without a path."""
  if not path:
    return
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  evals = subject.config.evals
  ticks = sorted({evals[name].top_k for name in metrics})
  columns = [column for column in subject.columns if column.is_plotted]
  figure = Figure(figsize=(6.4, 0.4 + 2.4 * len(columns)), layout="constrained")
  figure.suptitle(subject.headline, fontsize=9)
  panes = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
  rules = sorted({evals[name].selection for name in metrics})
  for axes, column in zip(panes, columns, strict=True):
    for rule in rules:
      names = [name for name in metrics if evals[name].selection == rule]
      names.sort(key=lambda name: evals[name].top_k)
      # Evenly spaced: 0 is no distance from 1, and the values often double.
      axes.plot(
        [ticks.index(evals[name].top_k) for name in names],
        [column.scale * metrics[name][column.metric] for name in names],
        "o-",
        **({"label": rule} if rule else {}),
      )
    axes.set_ylabel(column.title)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.3)
  if any(rules):
    panes[0].legend(fontsize=8)
  panes[-1].set_xticks(range(len(ticks)), [str(top_k) for top_k in ticks])
  panes[-1].set_xlabel("top_k: coarse tokens that the fine branch opens (0: off)")
  save_figure(path, figure, force=force)
