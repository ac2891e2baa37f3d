"""What reading a pickle may cost: every byte that is read pays for so much work and memory.

A pickle can refer back to what it made, so that a few bytes copy, hash or compare a million
values. Here whatever is copied, hashed or compared is charged by its length.
"""

from pst_jax.convert.formats.pickle_globals import Global, Placeholder, Storage, Tensor, damaged
from pst_jax.errors import UserError

MAX_INTEGER = 2**63
"""Sizes and dictionary keys are below it; longer integers could be made to collide as keys."""

UNIT_BYTES = 64
"""A unit of the budget is so many bytes of memory, or the time that it takes to compare them."""

UNITS_PER_BYTE = 2
"""State dicts, pickled modules and optimizers' states that PyTorch writes take 0.3 to 0.9."""

FREE_UNITS = 100_000
"""What a pickle of any length may cost."""

MAX_TUPLE_KEYS = 10_000
"""Tuples of numbers can be made to collide as keys, and each is then compared with all others."""

_SCALARS = frozenset({bool, float, type(None), Global, Placeholder, Storage, Tensor})


class Budget:
  """Counts units; `earn` and `charge` are called for every operation of a pickle."""

  def __init__(self):
    self._left, self._tuple_keys = FREE_UNITS, 0

  def earn(self, num_bytes: int) -> None:
    """So many more bytes of the pickle were read."""
    self._left += UNITS_PER_BYTE * num_bytes

  def charge(self, units: int) -> None:
    """Raises UserError when more was spent than the bytes that were read pay for."""
    self._left -= units
    if self._left < 0:
      raise UserError(
        "refused, because its pickle repeats its values so often that reading it would take far "
        "more time and memory than a file of its size; get the file again"
      )

  def charge_text(self, text: str | bytes) -> None:
    self.charge(1 + len(text) // UNIT_BYTES)

  def key(self, value: object) -> object:
    """Returns `value` if it may be a key of a dictionary or an element of a set.

    Hashing a deep tuple would take the whole stack, a repetitive one for ever: flat keys alone.
    """
    if type(value) is not tuple:
      self._scalar(value)
      return value
    self._tuple_keys += 1
    if self._tuple_keys > MAX_TUPLE_KEYS:
      raise damaged(f"more than {MAX_TUPLE_KEYS:,} dictionary keys that are tuples")
    self.charge(len(value))
    for part in value:
      self._scalar(part)
    return value

  def _scalar(self, value: object) -> None:
    kind = type(value)
    if kind is str or kind is bytes:
      self.charge_text(value)
    elif (kind is int and -MAX_INTEGER <= value < MAX_INTEGER) or kind in _SCALARS:
      self.charge(1)
    else:
      raise damaged(f"a {kind.__name__} inside a dictionary key")
