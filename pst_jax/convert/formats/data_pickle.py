"""Reads pickles as data: the pickle machine, with no way to import and no way to call.

What a name in the pickle stands for is decided in `pickle_globals`; this file only moves values.
"""

import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from pst_jax.convert.formats.pickle_budget import Budget
from pst_jax.convert.formats.pickle_globals import (
  CALL_UNITS,
  Global,
  OrderedEntries,
  Placeholder,
  Storage,
  call,
  damaged,
  empty_object,
  find_global,
  persistent,
  printable,
  refusal,
)
from pst_jax.errors import UserError

MAX_OPCODES = 2_000_000
"""A checkpoint of the authors' smallest detector has 74 thousand; this bounds memory and time."""


def load(stream: BinaryIO) -> tuple[object, dict[str, Storage]]:
  """Reads the pickle at the stream's position and leaves the stream behind its last byte.

  Args:
    stream: a binary stream whose `read` returns no more than there is, such as `BytesIO` or `mmap`.

  Returns:
    The pickled value, made of plain Python values and the classes of `pickle_globals` (a tensor is
    a `Tensor`, not its data); and the storages that it refers to, by key.

  Raises:
    UserError: the pickle is damaged, too long, or refused by the rules of `pickle_globals`.
  """
  machine, last = _Machine(), stream.tell()
  for name, argument, position in _opcodes(stream):
    if name not in _ACTIONS:
      raise refusal(f"the pickle opcode {name}")
    machine.budget.earn(position - last)
    machine.budget.charge(_UNITS.get(name, 1))
    last = position
    _ACTIONS[name](machine, argument)
  return machine.pop(), machine.storages


def _opcodes(stream: BinaryIO) -> Iterator[tuple[str, object, int]]:
  """Name, argument and position of the operations up to STOP, which is left out."""
  operations = pickletools.genops(stream)
  for _ in range(MAX_OPCODES):
    try:
      opcode, argument, position = next(operations)
    except (ValueError, OverflowError, struct.error) as error:
      raise damaged(printable(str(error))) from None
    if opcode.name == "STOP":
      return
    yield opcode.name, argument, position
  raise UserError(f"its pickle has more than {MAX_OPCODES:,} operations: no file of weights has")


class _Machine:
  """A stack, cut into groups by marks, and a memo of values that the pickle refers back to."""

  def __init__(self):
    self.stack, self.outer_stacks, self.memo = [], [], {}
    self.storages: dict[str, Storage] = {}
    self.budget = Budget()

  def push(self, value: object) -> None:
    self.stack.append(value)

  def pop(self) -> object:
    return self.pop_many(1)[0]

  def pop_many(self, count: int) -> list:
    if len(self.stack) < count:
      raise damaged("an operation without its operands")
    values = self.stack[-count:]
    del self.stack[-count:]
    return values

  def top(self) -> object:
    if not self.stack:
      raise damaged("an operation without its operand")
    return self.stack[-1]

  def mark(self) -> None:
    self.outer_stacks.append(self.stack)
    self.stack = []

  def pop_mark(self) -> list:
    if not self.outer_stacks:
      raise damaged("a group without a beginning")
    values, self.stack = self.stack, self.outer_stacks.pop()
    return values

  def remember(self, index: int) -> None:
    self.memo[index] = self.top()

  def recall(self, index: int) -> None:
    if index not in self.memo:
      raise damaged("a reference to nothing")
    self.push(self.memo[index])

  def pairs(self, flat: list) -> Iterator[tuple[object, object]]:
    if len(flat) % 2:
      raise damaged("a dictionary key without a value")
    return ((self.budget.key(key), value) for key, value in zip(flat[::2], flat[1::2], strict=True))

  def fill(self, kind: type, add: Callable, values: object) -> None:
    """Adds to the container on top; what a placeholder's class would have held is left out."""
    target = self.top()
    if isinstance(target, kind):
      add(target, values)
    elif type(target) is not Placeholder:
      raise damaged(f"entries of a {kind.__name__} put into a {type(target).__name__}")

  def build(self, state: object) -> None:
    target = self.top()
    if type(target) is Placeholder:
      target.state = state
    elif type(target) is OrderedEntries and type(state) is dict:
      target.attributes = state
    else:
      raise damaged(f"a state for a {type(target).__name__}")

  def refer(self, identifier: object) -> None:
    value = persistent(identifier)
    if type(value) is Storage:
      self.storages[value.key] = value
    self.push(value)

  def call(self, function: object, arguments: object) -> None:
    self.push(call(function, arguments, self.budget.charge, self.budget.key))

  def call_group(self, group: list) -> None:
    """INST and OBJ: a call written as a group of the class and its arguments."""
    if not group:
      raise damaged("a call of nothing")
    self.call(group[0], tuple(group[1:]))

  def create(self, cls: object) -> None:
    if type(cls) is Global:
      self.budget.charge_text(str(cls))
    self.push(empty_object(cls))


# Operations that cost more than one unit whatever their operands are: they make a value.
_UNITS = {"EMPTY_SET": 4, "EMPTY_DICT": 2} | dict.fromkeys(
  ("MARK", "GLOBAL", "STACK_GLOBAL", "INST", "NEWOBJ", "NEWOBJ_EX", "BINPERSID"), CALL_UNITS
)

_PUSHED = (
  *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT"),
  *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
  *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)


def _named(name: str) -> object:
  return find_global(*name.split(" ", 1))


# The opcodes of protocols 0 to 5 without the extension registry (EXT*), text identifiers (PERSID),
# buffers outside the pickle, and LONG4, whose integers have more digits than any size.
_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
  **dict.fromkeys(_PUSHED, _Machine.push),
  **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
  **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
  **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
  "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
  "NONE": lambda m, _: m.push(None),
  "NEWTRUE": lambda m, _: m.push(True),
  "NEWFALSE": lambda m, _: m.push(False),
  "EMPTY_TUPLE": lambda m, _: m.push(()),
  "EMPTY_LIST": lambda m, _: m.push([]),
  "EMPTY_DICT": lambda m, _: m.push({}),
  "EMPTY_SET": lambda m, _: m.push(set()),
  "MARK": lambda m, _: m.mark(),
  "POP": lambda m, _: m.pop(),
  "POP_MARK": lambda m, _: m.pop_mark(),
  "DUP": lambda m, _: m.push(m.top()),
  "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
  **{f"TUPLE{n}": lambda m, _, n=n: m.push(tuple(m.pop_many(n))) for n in (1, 2, 3)},
  "LIST": lambda m, _: m.push(m.pop_mark()),
  "DICT": lambda m, _: m.push(dict(m.pairs(m.pop_mark()))),
  "FROZENSET": lambda m, _: m.push(frozenset(map(m.budget.key, m.pop_mark()))),
  "APPEND": lambda m, _: m.fill(list, list.extend, m.pop_many(1)),
  "APPENDS": lambda m, _: m.fill(list, list.extend, m.pop_mark()),
  "SETITEM": lambda m, _: m.fill(dict, dict.update, m.pairs(m.pop_many(2))),
  "SETITEMS": lambda m, _: m.fill(dict, dict.update, m.pairs(m.pop_mark())),
  "ADDITEMS": lambda m, _: m.fill(set, set.update, map(m.budget.key, m.pop_mark())),
  "GLOBAL": lambda m, name: m.push(_named(name)),
  "STACK_GLOBAL": lambda m, _: m.push(find_global(*m.pop_many(2))),
  "REDUCE": lambda m, _: m.call(*m.pop_many(2)),
  "INST": lambda m, name: m.call_group([_named(name), *m.pop_mark()]),
  "OBJ": lambda m, _: m.call_group(m.pop_mark()),
  "NEWOBJ": lambda m, _: m.create(m.pop_many(2)[0]),
  "NEWOBJ_EX": lambda m, _: m.create(m.pop_many(3)[0]),
  "BUILD": lambda m, _: m.build(m.pop()),
  "BINPERSID": lambda m, _: m.refer(m.pop()),
}
