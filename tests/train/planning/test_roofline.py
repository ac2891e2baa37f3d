"""Least times from work and peaks, by hand."""

import dataclasses

import pytest
from support.programs import ALL_REDUCE, operation, program

from train.planning.hlo_cost import Collective
from train.planning.roofline import collective_seconds, roofline
from train.planning.topologies import find_slice

V5E = find_slice("v5e:4x4")  # 197 TFLOP/s, 819 GB/s, links of 50 GB/s


def test_the_work_takes_its_time_at_the_peaks():
  times = roofline(program(operation(flops=197e9, read=300e6, written=519e6, count=2)), V5E)
  assert times.compute == pytest.approx(2e-3)
  assert times.memory == pytest.approx(2e-3)
  assert times.interconnect == 0


def test_the_longest_of_the_three_binds():
  assert roofline(program(operation(flops=197e9, read=1)), V5E).binding == "compute"
  assert roofline(program(operation(flops=1, read=819e6)), V5E).binding == "memory"
  times = roofline(program(operation(flops=1, read=1, collectives=(ALL_REDUCE,))), V5E)
  assert (times.binding, times.least) == ("interconnect", times.interconnect)


def test_one_by_one_adds_the_longer_time_of_each_operation():
  work = program(operation(flops=197e9, read=1), operation(flops=1, read=819e6))
  times = roofline(work, V5E)
  assert times.least == pytest.approx(1e-3)
  assert times.one_by_one == pytest.approx(2e-3)


def test_early_copies_are_in_the_total_of_the_memory_alone():
  copy = dataclasses.replace(operation(read=819e6), overlaps=True)
  times = roofline(program(operation(flops=1, read=819e6), copy), V5E)
  assert times.memory == pytest.approx(2e-3)
  assert times.one_by_one == pytest.approx(1e-3)


def test_an_all_reduce_crosses_the_links_twice():
  # Two open sides of 4 chips: 3 hops each, and 2 links that all chips have.
  expected = 2 * (6e-6 + 100e6 * 15 / 16 / (2 * 50e9))
  assert collective_seconds(ALL_REDUCE, V5E) == pytest.approx(expected)


def test_rings_have_twice_the_links_and_half_the_hops():
  expected = 2 * (16e-6 + 100e6 * 255 / 256 / (4 * 50e9))
  assert collective_seconds(ALL_REDUCE, find_slice("v5e:16x16")) == pytest.approx(expected)


def test_nothing_crosses_a_link_within_one_device():
  assert collective_seconds(ALL_REDUCE, find_slice("v5e:1x1")) == 0
  assert collective_seconds(Collective("all-gather", 100, 1), V5E) == 0
