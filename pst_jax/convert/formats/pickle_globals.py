"""What the names in a PyTorch pickle may mean: tensors, inert placeholders, or a refusal.

Python's unpickler imports every global that a file names and calls what the file says, so whoever
wrote the file decides what runs. Here a global is a name and nothing more (`Global`), and a "call"
looks that name up in the tables of this file:

1. `_REBUILDERS`: tensors, ordered dictionaries, sets. Functions of this file make the value.
2. `_INERT`: the other callables that real checkpoints hand arguments to (paths, dates, NumPy
   scalars, enum members). The result is a `Placeholder`: a name, without what was handed over.
3. A class from outside the standard library that is created empty and then filled, as modules are,
   is a `Placeholder` too, with its state.
4. All else is refused by its name: any other name of the standard library as soon as it is
   mentioned, even where it would never be called, and any other call with arguments.

Rules 1 to 3 would be safe for every name, because nothing runs; rule 4 is there because a file that
asks for `posix.system` is an attack that its user should hear of.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from pst_jax.errors import UserError

MAX_SIZE = 2**63
"""Sizes, offsets and strides are below it."""

MAX_NAME_LENGTH = 1000
"""Of a module, a class or a storage's key; each mention makes copies of them."""

_DTYPE_NAMES = (
  *("float16", "float32", "float64", "complex64", "complex128", "bool"),
  *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
  *("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in _DTYPE_NAMES}
"""NumPy's dtype for each name of a PyTorch dtype."""

_STORAGE_DTYPES = {
  "HalfStorage": "float16",
  "FloatStorage": "float32",
  "DoubleStorage": "float64",
  "BFloat16Storage": "bfloat16",
  "CharStorage": "int8",
  "ShortStorage": "int16",
  "IntStorage": "int32",
  "LongStorage": "int64",
  "ByteStorage": "uint8",
  "BoolStorage": "bool",
  "ComplexFloatStorage": "complex64",
  "ComplexDoubleStorage": "complex128",
  "UntypedStorage": "uint8",
}


CALL_UNITS = 4
"""What making a value costs of `pickle_budget`, whichever it is."""


@dataclass(frozen=True, slots=True)
class Global:
  """The name of a class or function; never the thing itself."""

  module: str
  name: str

  def __str__(self) -> str:
    return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Placeholder:
  """Stands for an object whose class was not looked up: its class name and, if any, its state."""

  class_name: str
  state: object = None


@dataclass(frozen=True, slots=True)
class Storage:
  """A run of `size` elements that the file keeps under `key`, outside the pickle."""

  key: str
  dtype: np.dtype
  size: int


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
  """A strided view of a storage; offset and strides count elements. Nothing is read for it yet."""

  storage: Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class OrderedEntries(dict):
  """A pickled OrderedDict; `attributes` are those that were set on the object itself."""

  __slots__ = ("attributes",)

  def __init__(self, *entries):
    super().__init__(*entries)
    self.attributes: dict = {}


def printable(text: str) -> str:
  """Text from a file, safe to print: ASCII, no control characters, at most 120 characters."""
  return ascii(text)[1:-1][:120]


def refusal(name: str) -> UserError:
  return UserError(
    f"refused, because its pickle asks for {printable(name)}, which is no part of a network's "
    "weights (nothing of the file was run); if you trust its origin, save model.state_dict() there"
  )


def damaged(what: str) -> UserError:
  return UserError(f"its pickle is damaged ({what}); get the file again")


def _is_natural(value: object) -> bool:
  return type(value) is int and 0 <= value < MAX_SIZE


def _tensor(storage, dtype, offset, shape, strides, metadata) -> Tensor:
  if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
    raise damaged("a tensor without a storage or a shape")
  if len(shape) != len(strides) or len(shape) > 64:
    raise damaged(f"a tensor of {len(shape)} axes with {len(strides)} strides")
  if not all(map(_is_natural, (offset, *shape, *strides))):
    raise damaged("a tensor whose offset, sizes or strides are no natural numbers of 63 bits")
  if metadata:
    raise UserError("it holds a lazily conjugated tensor: save it after tensor.resolve_conj()")
  return Tensor(storage, dtype, offset, shape, strides)


def _rebuild_v2(storage, offset, shape, strides, requires_grad, hooks, metadata=None):
  return _tensor(storage, getattr(storage, "dtype", None), offset, shape, strides, metadata)


def _rebuild_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
  if type(dtype) is not Global or dtype.module != "torch" or dtype.name not in DTYPES:
    raise damaged(f"a tensor of an unknown type; known are {', '.join(DTYPES)}")
  return _tensor(storage, DTYPES[dtype.name], offset, shape, strides, metadata)


def _rebuild_parameter(tensor, requires_grad, hooks, state=None) -> Tensor:
  if type(tensor) is not Tensor:
    raise damaged("a parameter without a tensor")
  return tensor


_TENSOR_REBUILDERS = {
  "torch._utils._rebuild_tensor_v2": _rebuild_v2,
  "torch._utils._rebuild_tensor_v3": _rebuild_v3,
  "torch._utils._rebuild_parameter": _rebuild_parameter,
  "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}


def _rebuild_with_attributes(rebuild, cls, arguments, state) -> Tensor:
  if type(rebuild) is not Global or str(rebuild) not in _TENSOR_REBUILDERS:
    raise refusal(_name_of(rebuild))
  return _TENSOR_REBUILDERS[str(rebuild)](*arguments)


def _member(owner, name) -> Placeholder:
  """An enum member as Python 3.11.0 to 3.11.3 pickles it; the result cannot be called."""
  if type(owner) is not Global or type(name) is not str:
    raise refusal("builtins.getattr")
  return Placeholder(f"{owner}.{name}")


def empty_object(cls: object) -> Placeholder:
  """An object of class `cls` on which no initialiser was run."""
  if type(cls) is not Global:
    raise damaged(f"an object whose class is a {type(cls).__name__}")
  return Placeholder(str(cls))


_REBUILDERS: dict[str, Callable] = _TENSOR_REBUILDERS | {
  "torch._tensor._rebuild_from_type_v2": _rebuild_with_attributes,
  "builtins.getattr": _member,
  "copyreg._reconstructor": lambda cls, base, state: empty_object(cls),
}

# These read their arguments entry by entry; `key` checks, and charges for, one that is hashed.
_COPIERS: dict[str, Callable[[Callable, Iterable], object]] = {
  "torch.Size": lambda key, items=(): tuple(items),
  "collections.OrderedDict": lambda key, items=(): OrderedEntries((key(k), v) for k, v in items),
  "builtins.set": lambda key, items=(): set(map(key, items)),
}

_INERT_NAMES = {
  "builtins": [
    *("object", "dict", "list", "tuple", "frozenset", "slice", "range"),
    *("int", "float", "complex", "bool", "str", "bytes", "bytearray"),
  ],
  "_codecs": ["encode"],
  "argparse": ["Namespace"],
  "collections": ["Counter", "defaultdict", "deque"],
  "datetime": ["date", "datetime", "time", "timedelta", "timezone"],
  "numpy": ["dtype"],
  "numpy.core.multiarray": ["scalar", "_reconstruct"],
  "numpy._core.multiarray": ["scalar", "_reconstruct"],
  "pathlib": ["Path", "PosixPath", "PurePosixPath", "WindowsPath"],
  "torch": ["device"],
  "torchvision.transforms.functional": ["InterpolationMode"],
  "types": ["SimpleNamespace"],
}
_INERT = {f"{module}.{name}" for module, names in _INERT_NAMES.items() for name in names}

_KNOWN = _INERT | _REBUILDERS.keys() | _COPIERS.keys()

_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def _name_of(function: object) -> str:
  if type(function) is Placeholder:
    return function.class_name
  return str(function) if type(function) is Global else f"a call of a {type(function).__name__}"


def find_global(module: object, name: object) -> Global:
  """The name as a value; raises UserError for names of the standard library but those above."""
  if type(module) is not str or type(name) is not str:
    raise damaged("a global whose name is no text")
  if max(len(module), len(name)) > MAX_NAME_LENGTH:
    raise damaged(f"a global whose name has more than {MAX_NAME_LENGTH} letters")
  found = Global(_RENAMED_MODULES.get(module, module), name)
  standard = found.module.partition(".")[0] in sys.stdlib_module_names
  if standard and str(found) not in _KNOWN:
    raise refusal(str(found))
  return found


def call(function: object, arguments: object, charge: Callable, key: Callable) -> object:
  """What stands for `function(*arguments)` by the rules above; UserError where they refuse.

  `charge` and `key` are those of a `Budget`.
  """
  name = _name_of(function)
  if type(function) is not Global:
    raise refusal(name)
  if type(arguments) is not tuple:
    raise damaged("a call without arguments")
  charge(CALL_UNITS + len(arguments))
  try:
    if name in _COPIERS:
      charge(2 * sum(map(len, arguments)))  # two units hold an entry of a dictionary
      return _COPIERS[name](key, *arguments)
    if name in _REBUILDERS:
      return _REBUILDERS[name](*arguments)
  except UserError:
    raise
  except (TypeError, ValueError):
    raise damaged(f"wrong arguments for {name}") from None
  if arguments and name not in _INERT:
    raise refusal(name)
  return Placeholder(name)


def persistent(identifier: object) -> Global | Storage:
  """What torch.save keeps outside the pickle: a storage or, in its old format, a module's class."""
  match identifier:
    case ("module", Global() as cls, _, _):
      return cls
    case ("storage", Global() as cls, str(key), str(), int(size), *view) if view in ([], [None]):
      if cls.module.partition(".")[0] != "torch" or cls.name not in _STORAGE_DTYPES:
        raise refusal(str(cls))
      if not _is_natural(size):
        raise damaged("a storage whose size is no natural number of 63 bits")
      if len(key) > MAX_NAME_LENGTH:
        raise damaged(f"a storage whose key has more than {MAX_NAME_LENGTH} letters")
      return Storage(key, DTYPES[_STORAGE_DTYPES[cls.name]], size)
  raise damaged("a persistent identifier that is no storage")
