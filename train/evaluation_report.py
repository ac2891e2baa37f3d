"""What an evaluation reports: a table, a plot of accuracy against top_k, JSON."""

import dataclasses
import io
import json
import math
import os
import pathlib

from pst_jax.commands.convert import described
from pst_jax.convert.metadata import Metadata
from train.config import ConfigError, DataConfig
from train.output_file import check_output, write_output

PLOT_FORMATS = (".png", ".svg", ".pdf")
_WIDTH = 50
"""Characters of the text plot."""

Accuracy = dict[int, dict[str, float]]
"""As `evaluation.evaluate` returns it."""


@dataclasses.dataclass(frozen=True)
class Subject:
  """What was evaluated.

  Attributes:
    source: the run or file.
    weights: the facts about them.
    data: on which images.
  """

  source: str
  weights: Metadata
  data: DataConfig

  @property
  def headline(self) -> str:
    data = self.data
    return (
      f"{self.source}: {described(self.weights)}\n"
      f"split {data.eval_split} of {data.dataset}, images of {data.image_size}x{data.image_size}"
    )


def check_outputs(plot: str | None, json_file: str | None, *, force: bool) -> None:
  """Raises ConfigError if `write_plot` or `write_json` could not write there."""
  for path in (plot, json_file):
    if path:
      check_output(path, force=force)
  if not plot:
    return
  if pathlib.Path(plot).suffix.lower() not in PLOT_FORMATS:
    raise ConfigError(f"--plot is {plot}, but its ending must be {', '.join(PLOT_FORMATS)}")
  try:
    import matplotlib  # noqa: F401
  except ImportError:
    raise ConfigError(
      "--plot draws with matplotlib, which is not installed: pip install matplotlib"
    ) from None


def table(accuracy: Accuracy) -> str:
  """A line for each top_k."""
  lines = ["top_k   top-1 %   top-5 %     loss   images"]
  for top_k, values in accuracy.items():
    lines.append(
      f"{top_k:5d} {100 * values['top1']:9.2f} {100 * values['top5']:9.2f} {values['loss']:8.4f} "
      f"{values['count']:8.0f}"
    )
  return "\n".join(lines)


def text_plot(accuracy: Accuracy) -> list[str]:
  """A plot of top-1 against top_k for the terminal; nothing for a single value."""
  if len(accuracy) < 2:
    return []
  top1 = {top_k: 100 * accuracy[top_k]["top1"] for top_k in sorted(accuracy)}
  low, high = _axis(list(top1.values()))
  ends = f"{low:g}", f"{high:g}"
  lines = ["top_k   top-1 %", " " * 6 + ends[0] + ends[1].rjust(_WIDTH + 1 - len(ends[0]))]
  for top_k, value in top1.items():
    column = round((value - low) / (high - low) * (_WIDTH - 1))
    lines.append(f"{top_k:5d} |{'*'.rjust(column + 1, '-').ljust(_WIDTH)}| {value:.2f}")
  return ["\n".join(lines)]


def _axis(values: list[float]) -> tuple[float, float]:
  """Round ends that hold all percentages; half a point apart or more, to keep noise small."""
  span = max(max(values) - min(values), 0.5)
  step = 10 ** math.floor(math.log10(span))
  low = math.floor(min(values) / step) * step
  high = max(math.ceil(max(values) / step) * step, low + step)
  return round(low, 6), round(high, 6)


def write_json(path: str | None, subject: Subject, accuracy: Accuracy, *, force: bool) -> None:
  """Writes all figures; nothing without a path."""
  if path:
    content = {
      "source": subject.source,
      "model": subject.weights.model,
      "step": subject.weights.step,
      "weights": subject.weights.weights,
      "dataset": subject.data.dataset,
      "split": subject.data.eval_split,
      "image_size": subject.data.image_size,
      "eval_crop": subject.data.eval_crop,
      "accuracy": [{"top_k": top_k, **values} for top_k, values in accuracy.items()],
    }
    _write(path, json.dumps(content, indent=2).encode() + b"\n", force)


def write_plot(path: str | None, subject: Subject, accuracy: Accuracy, *, force: bool) -> None:
  """Draws top-1 and top-5 against top_k with matplotlib; nothing without a path."""
  if not path:
    return
  from matplotlib.figure import Figure  # not pyplot: it would look for a screen

  ticks = sorted(accuracy)
  figure = Figure(figsize=(6.4, 5.2), layout="constrained")
  figure.suptitle(subject.headline, fontsize=9)
  panes = figure.subplots(2, 1, sharex=True)
  for axes, name, label in zip(panes, ("top1", "top5"), ("top-1 %", "top-5 %"), strict=True):
    # Evenly spaced: 0 is no distance from 1, and the values often double.
    axes.plot(range(len(ticks)), [100 * accuracy[top_k][name] for top_k in ticks], "o-")
    axes.set_ylabel(label)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.3)
  panes[-1].set_xticks(range(len(ticks)), [str(top_k) for top_k in ticks])
  panes[-1].set_xlabel("top_k: coarse tokens that the fine branch opens (0: off)")
  content = io.BytesIO()
  figure.savefig(content, format=pathlib.Path(path).suffix[1:].lower(), dpi=150)
  _write(path, content.getvalue(), force)


def _write(path: str | os.PathLike, content: bytes, force: bool) -> None:
  write_output(path, content, force=force)
  print(f"written: {path}")
