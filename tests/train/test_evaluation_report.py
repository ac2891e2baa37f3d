"""The text plot of an evaluation."""

import pytest

from train.evaluation_report import text_plot


def accuracy(**top1):
  return {int(k[1:]): {"top1": value, "top5": 1.0, "loss": 1.0} for k, value in top1.items()}


def stars(plot) -> list[int]:
  return [line.index("*") for line in plot.splitlines() if "*" in line]


def test_the_plot_puts_each_value_on_one_axis():
  (plot,) = text_plot(accuracy(k8=0.8, k0=0.75, k1=0.76))
  low, *_, high = plot.splitlines()[1].split()
  assert (low, high) == ("75", "80")
  assert [line.split()[0] for line in plot.splitlines()[2:]] == ["0", "1", "8"]
  first, second, last = stars(plot)
  assert (last - first) == pytest.approx(5 * (second - first), abs=2.5)
  assert plot.splitlines()[-1].endswith("| 80.00")


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 1 / 3])
def test_equal_values_have_equal_places(value):
  (plot,) = text_plot(accuracy(k0=value, k8=value))
  assert len(set(stars(plot))) == 1


def test_a_single_value_needs_no_plot():
  assert text_plot(accuracy(k0=0.5)) == []


def test_no_line_is_wider_than_a_terminal():
  (plot,) = text_plot(accuracy(k0=1 / 3, k1024=1.0))
  assert max(map(len, plot.splitlines())) <= 80
