"""The table and the text plot of an evaluation."""

import pytest

from pst_jax.convert.metadata import Metadata
from train.config import Config, EvalConfig
from train.evaluation.report import Subject, table, text_plot
from train.schema import evals_of
from train.tasks.classification.task import TASK


def plot_of(**top1):
  """The text plot of {"k8": 0.5}."""
  return text_plot(*case(evals_of(tuple(int(name[1:]) for name in top1)), top1.values()))


def case(evals, top1):
  subject = Subject("run", Metadata("resnet18_pst", {}, "run"), Config(evals=evals), TASK.columns)
  rest = {"top5": 1.0, "loss": 1.0, "count": 9}
  return subject, {name: {"top1": v, **rest} for name, v in zip(evals, top1, strict=True)}


def stars(plot) -> list[int]:
  return [line.index("*") for line in plot.splitlines() if "*" in line]


def test_the_plot_puts_each_value_on_one_axis():
  (plot,) = plot_of(k8=0.8, k0=0.75, k1=0.76)
  low, *_, high = plot.splitlines()[1].split()
  assert (low, high) == ("75", "80")
  assert [line.split()[0] for line in plot.splitlines()[2:]] == ["0", "1", "8"]
  first, second, last = stars(plot)
  assert (last - first) == pytest.approx(5 * (second - first), abs=2.5)
  assert plot.splitlines()[-1].endswith("| 80.00")


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 1 / 3])
def test_equal_values_have_equal_places(value):
  (plot,) = plot_of(k0=value, k8=value)
  assert len(set(stars(plot))) == 1


def test_a_single_value_needs_no_plot():
  assert plot_of(k0=0.5) == []


def test_no_line_is_wider_than_a_terminal():
  (plot,) = plot_of(k0=1 / 3, k1024=1.0)
  assert max(map(len, plot.splitlines())) <= 80


def test_the_table_names_rules_and_evaluations_where_there_are_some():
  evals = {"coarse": EvalConfig(0), "noisy": EvalConfig(4, "gumbel")}
  head, first, second = table(*case(evals, [0.5, 0.25])).splitlines()
  assert head.split()[:3] == ["top_k", "selection", "evaluation"]
  assert first.split() == ["0", "top_k", "coarse", "50.00", "100.00", "1.0000", "9"]
  assert second.split()[:4] == ["4", "gumbel", "noisy", "25.00"]


def test_the_table_of_a_sweep_over_top_k_has_one_column_for_it():
  head, row = table(*case(evals_of((8,)), [0.5])).splitlines()
  assert head == "top_k   top-1 %   top-5 %     loss   images"
  assert row == "    8     50.00    100.00   1.0000        9"
