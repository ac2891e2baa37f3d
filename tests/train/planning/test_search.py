"""Searching for the largest batch: few compilations, and an answer that is right."""

import pytest

from train.planning.search import MAX_COUNT, largest_that_fits

USABLE = 1_000_000


def memory(fixed, each, squeezed=1.0):
  """A step of `fixed` bytes and `each` a count; near the limit the compiler squeezes it."""
  tried = []

  def bytes_at(count):
    tried.append(count)
    needed = fixed + each * count
    return needed * squeezed <= USABLE, needed

  return bytes_at, tried


@pytest.mark.parametrize("start", [1, 7, 100, 5000])
@pytest.mark.parametrize(("fixed", "each"), [(0, 1000), (300_000, 777), (950_000, 40_000)])
def test_the_answer_is_the_largest_to_a_sixteenth_in_few_tries(fixed, each, start):
  bytes_at, tried = memory(fixed, each)
  found, largest = largest_that_fits(bytes_at, start, USABLE), (USABLE - fixed) // each
  assert largest * 15 / 16 - 1 <= found <= largest
  assert found in tried
  assert len(tried) <= 6


def test_what_the_compiler_squeezes_in_is_found():
  bytes_at, tried = memory(200_000, 1000, squeezed=0.8)
  assert 1050 * 15 / 16 <= largest_that_fits(bytes_at, 100, USABLE) <= 1050
  assert len(tried) <= 10


def test_where_nothing_fits_the_answer_is_0():
  bytes_at, _ = memory(2_000_000, 10)
  assert largest_that_fits(bytes_at, 64, USABLE) == 0


def test_the_search_ends_where_memory_does_not_grow():
  bytes_at, tried = memory(1000, 0)
  assert largest_that_fits(bytes_at, 8, USABLE) >= MAX_COUNT * 15 // 16
  assert len(tried) <= 12


def test_the_search_works_with_few_steps_to_choose_from():
  bytes_at, _ = memory(0, 300_000)
  assert largest_that_fits(bytes_at, 1, USABLE) == 3
