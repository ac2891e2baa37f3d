"""What values an option may have, beside its field: `width: Annotated[float, ABOVE_0] = 1.0`."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple


class Range(NamedTuple):
  """What values an option may have.

  Attributes:
    text: what a value must be, to end the sentence "... but it must be".
    allows: whether a value is so; an error that it raises means no.
  """

  text: str
  allows: Callable[[Any], bool]


def _is_number(value):
  return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


ABOVE_0 = Range("a finite number above 0", lambda v: _is_number(v) and v > 0)
FROM_0 = Range("a finite number from 0", lambda v: _is_number(v) and v >= 0)
FRACTION = Range("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
UP_TO_1 = Range("a number from 0 to 1", lambda v: 0 <= v <= 1)
ABOVE_0_UP_TO_1 = Range("a number above 0, at most 1", lambda v: 0 < v <= 1)


def _is_whole(value, least):
  return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def _is_floating(value):
  import jax.numpy as jnp  # late: data workers read ranges without JAX

  return value is not None and jnp.issubdtype(jnp.dtype(value), jnp.floating)


WHOLE_FROM_0 = Range("a whole number from 0", lambda v: _is_whole(v, 0))
WHOLE_FROM_1 = Range("a whole number from 1", lambda v: _is_whole(v, 1))
WHOLE_FROM_1_OR_NONE = Range(
  "a whole number from 1, or None", lambda v: v is None or _is_whole(v, 1)
)
TRUE_OR_FALSE = Range("True or False", lambda v: isinstance(v, bool))
FLOATING = Range("a floating type such as jnp.bfloat16", _is_floating)


def one_of(names: Collection[str]) -> Range:
  """One of some names; a dictionary's keys are looked up when a value is."""
  return Range(f"one of {', '.join(names)}", lambda v: v in names)


class Violation(NamedTuple):
  """A value out of its range.

  Attributes:
    name: of the field, with the names of the dataclasses around it: `model.width`.
    value: what it has.
    expected: what it must be.
  """

  name: str
  value: Any
  expected: str


def violations(instance: Any, prefix: str = "") -> Iterator[Violation]:
  """The fields of a dataclass, and of those inside it, whose values are out of their ranges.

  Args:
    instance: fields annotated as `Annotated[type, Range(...)]` are looked at.
    prefix: goes before the names.
  """
  hints = typing.get_type_hints(type(instance), include_extras=True)
  for field in dataclasses.fields(instance):
    value = getattr(instance, field.name)
    if dataclasses.is_dataclass(value):
      yield from violations(value, f"{prefix}{field.name}.")
      continue
    for note in getattr(hints[field.name], "__metadata__", ()):
      if isinstance(note, Range) and not _allows(note, value):
        yield Violation(prefix + field.name, value, note.text)


def _allows(each: Range, value: Any) -> bool:
  try:
    return bool(each.allows(value))
  except (TypeError, ValueError):
    return False
