"""The plan as text and figures."""

import dataclasses

import pytest
from support.programs import ALL_REDUCE, FITTING, operation, program, step

from train.planning import report
from train.planning.compiling import Memory
from train.planning.topologies import find_slice

V5E = find_slice("v5e:4x4")


@pytest.fixture(autouse=True)
def compiler_version(monkeypatch):
  monkeypatch.setattr(report.importlib.metadata, "version", lambda _: "0.0.52")


@pytest.fixture
def fitting():
  work = program(
    operation(flops=197e9, read=8_190_000_000),
    operation("sum", collectives=(ALL_REDUCE,), count=2),
  )
  return step(work, FITTING)


def test_figures_follow_from_the_binding_time(fitting):
  figures = report.as_dict(fitting, V5E)
  assert figures["binding"] == "memory"
  assert figures["roofline_seconds"]["least"] == pytest.approx(10e-3)
  assert figures["most_images_per_second"] == pytest.approx(409_600)
  assert figures["most_images_per_second_per_chip"] == pytest.approx(25_600)
  assert figures["least_days"] == pytest.approx(1000 * 10e-3 / 86400)


def test_collectives_are_counted_by_kind_with_their_bytes(fitting):
  (row,) = report.as_dict(fitting, V5E)["collectives"]
  assert (row["kind"], row["group"], row["count"], row["bytes"]) == (
    "all-reduce",
    16,
    2,
    200_000_000,
  )


def test_kernels_are_counted_apart_as_the_compiler_guesses_nothing_for_them(fitting):
  kernel = dataclasses.replace(operation("kernel", flops=2e12, count=3), is_kernel=True)
  with_kernel = step(program(operation(flops=1e12), kernel), FITTING)
  assert report.as_dict(with_kernel, V5E)["matrix_flops_per_device"] == 7e12
  assert report.as_dict(with_kernel, V5E)["kernel_flops_per_device"] == 6e12
  text = report.text(with_kernel, V5E)
  assert "custom kernels            3 a step, 6.00 TFLOP of these" in text
  assert "without the kernels" in text
  assert "kernel" not in report.text(fitting, V5E)


def test_the_text_says_what_is_the_compilers_and_what_an_estimate(fitting):
  text = report.text(fitting, V5E)
  assert "MEMORY of a chip, by the compiler" in text
  assert "TIME of one step: estimates" in text
  assert "nothing ran on a TPU" in text
  (limit,) = [line for line in text.splitlines() if "<- the limit" in line]
  assert limit.split()[0] == "memory"
  assert "10 epochs = 1,000 steps: at least 10.0 seconds" in text


def test_a_step_needs_its_peak_where_that_is_more_than_what_it_holds():
  assert Memory(arguments=1, outputs=0, temporaries=2, code=10, peak=7).total == 17
  assert Memory(arguments=4, outputs=1, temporaries=4, code=10, peak=7).total == 19


def test_a_step_that_does_not_fit_says_what_it_needs_and_what_there_is():
  text = report.text(step(None, None, needed=20_000_000_000), V5E)
  assert "does not fit: it needs 20.00 GB, and 16.91 GB are usable" in text
  assert "TIME" not in text
  assert report.as_dict(step(None, None, needed=20_000_000_000), V5E)["fits"] is False


def test_the_operations_that_take_longest_come_first(fitting):
  lines = report.heaviest(fitting, V5E, 1).splitlines()
  assert len(lines) == 3
  assert lines[2].split()[-2:] == ["work", "jit(step)/work"]


def test_a_table_says_what_the_step_is_made_of(fitting):
  lines = report.by_kind(fitting, V5E).splitlines()
  assert lines[2].split()[:4] == ["10.00", "8.19", "197", "1"]
  assert lines[2].endswith("matrix products")
  assert lines[3].endswith("collectives")
