"""Where the time of a run goes; by a clock that the tests set."""

import pytest

from train.run import timing
from train.run.timing import Times


@pytest.fixture
def clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(timing, "monotonic", lambda: now[0])
  return now


def test_every_second_counts_once(clock):
  times = Times()
  clock[0] += 5
  times.elapsed("startup")
  clock[0] += 1
  with times.measure("data_wait"):
    clock[0] += 2
  clock[0] += 3
  with times.measure("checkpoint"):
    clock[0] += 4
  assert times.since_last() == {
    "compilation_seconds": 0,
    "compute_seconds": 4,
    "data_wait_seconds": 2,
    "evaluation_seconds": 0,
    "checkpoint_seconds": 4,
  }


def test_each_line_tells_of_the_time_since_the_last(clock):
  times = Times()
  clock[0] += 1
  with times.measure("evaluation"):
    clock[0] += 2
  times.since_last()
  clock[0] += 3
  passed = times.since_last()
  assert (passed["compute_seconds"], passed["evaluation_seconds"]) == (3, 0)


def test_time_that_ends_in_an_error_counts(clock):
  times = Times()
  with pytest.raises(KeyError), times.measure("checkpoint"):
    clock[0] += 4
    raise KeyError
  assert times.since_last()["checkpoint_seconds"] == 4


def test_the_summary_has_the_part_of_each_kind_the_largest_first(clock):
  times = Times()
  clock[0] += 10
  times.elapsed("startup")
  with times.measure("data_wait"):
    clock[0] += 30
  clock[0] += 160
  assert times.summary() == [
    ("time of this start", "200 s"),
    (
      "time went into",
      "80 % computing, 15 % waiting for data, 5 % starting, 0 % compiling, 0 % evaluating, "
      "0 % saving checkpoints",
    ),
  ]
