"""The largest batch that fits in the memory of a chip."""

import math
from collections.abc import Callable

MAX_TRIES = 12
# A count beyond this is no plan, even where a tiny network would fit.
MAX_COUNT = 2**16


def largest_that_fits(
  bytes_at: Callable[[int], tuple[bool, int]], start: int, usable: int, resolution: float = 1 / 16
) -> int:
  """The largest count that fits, to a sixteenth; 0: not even 1 does.

  Memory is nearly a straight line in the batch, so the next count to try lies where the line
  through the last two meets the limit, but at least one beyond what is known to fit and at least
  one below what is known not to.

  Args:
    bytes_at: count -> (whether it fits, bytes that it takes); costs a compilation each.
    start: first count to try.
    usable: bytes that there are.
    resolution: fraction of the count that is close enough.
  """
  seen, fits, fails = {0: 0}, 0, MAX_COUNT + 1
  count = max(1, start)
  for _ in range(MAX_TRIES):
    does, seen[count] = bytes_at(count)
    fits, fails = (count, fails) if does else (fits, count)
    if fails - fits <= max(1, fits * resolution):
      break
    count = min(max(_crossing(seen, count, usable), fits + 1), fails - 1)
    # The compiler squeezes a program that hardly fits: beyond the line there may be more.
    if fits and count == fits + 1:
      count = min(fits + max(1, round(fits * resolution)), fails - 1)
  return fits


def _crossing(seen: dict[int, int], last: int, usable: int) -> int:
  """Where the line through the last count and its nearest neighbour meets the limit."""
  other = min((each for each in seen if each != last), key=lambda each: (abs(each - last), each))
  slope = (seen[last] - seen[other]) / (last - other)
  if slope <= 0:
    return 2 * max(seen)
  return math.floor(last + (usable - seen[last]) / slope)
