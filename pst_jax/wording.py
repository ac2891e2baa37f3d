"""Parts of sentences and tables that several places have in common."""

from collections.abc import Iterable, Mapping, Sequence


def listed(items: Iterable[str], most: int = 5) -> str:
  """The first few of them, and how many more there are."""
  items = list(items)
  return ", ".join(items[:most]) + (f" and {len(items) - most} more" * (len(items) > most))


def safe(text: str) -> str:
  """For a terminal: a file may bring any name, also one that would steer it."""
  return "".join(c if c.isprintable() else "?" for c in text)


def mismatch(wanted: Mapping[str, tuple], given: Mapping[str, tuple], most: int = 20) -> str:
  """What differs between arrays by name and shape; an empty text: nothing."""
  problems = {
    "missing": [name for name in wanted if name not in given],
    "left over": [name for name in given if name not in wanted],
    "of another shape": [
      f"{name} {tuple(given[name])} instead of {tuple(shape)}"
      for name, shape in wanted.items()
      if name in given and tuple(given[name]) != tuple(shape)
    ],
  }
  return "; ".join(
    f"{len(names)} {problem}: {listed(names, most)}" for problem, names in problems.items() if names
  )


def aligned(rows: Sequence[Sequence[str]]) -> str:
  """A table of cells for a terminal: the first column to the left, the others to the right."""
  first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
  return "\n".join(
    "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows
  )
