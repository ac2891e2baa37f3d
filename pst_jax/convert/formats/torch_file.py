"""Weights in PyTorch's .pt and .pth files, read without PyTorch and without running anything.

Three forms are understood: a state dict {entry name: tensor}; a dictionary that wraps one among
other things; and a training checkpoint that holds a pickled model, as Ultralytics' trainer writes
it, whose state dict is rebuilt from the parameters, buffers and submodules of the pickled objects.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from pst_jax.convert.formats.pickle_globals import OrderedEntries, Placeholder, Tensor, printable
from pst_jax.convert.formats.torch_container import open_torch_file, read_arrays
from pst_jax.errors import UserError
from pst_jax.files import atomic_write, existing_file
from pst_jax.install import how_to_install

METADATA_KEY = "pst_jax"
"""Name of our metadata block, a JSON text, in the files that we write."""

_WRAPPER_KEYS = {
  "ema": ("ema", "state_dict_ema"),
  "model": ("model", "state_dict", "model_state", "model_state_dict"),
}
"""Where checkpoints keep a model and its moving average, in the order of search."""

_PREFIXES = ("module.", "_orig_mod.", "module.")
"""Put before every name by DataParallel and torch.compile, one around the other in either order."""

# A file may let modules share submodules so that there are 2**depth of them, or hold themselves.
_MAX_NAMES = 20_000
_MAX_NAME_LENGTH = 1000


class TorchFile(NamedTuple):
  """What `read_torch_file` returns: arrays by entry name, and facts about the file by name."""

  state_dict: dict[str, np.ndarray]
  info: dict


def read_torch_file(path: str | os.PathLike, *, ema: bool | None = None) -> TorchFile:
  """Reads the weights of a .pt or .pth file.

  Args:
    path: what torch.save wrote, in its zip format or the one before it.
    ema: of a checkpoint that holds a model and its moving average, take the average (True), the
      model itself (False), or the average if there is one (None).

  Returns:
    The state dict {entry name: array} in PyTorch's order and in the types that the file has (half
    precision stays half precision, see `to_float32`); and info, a dictionary of plain values:
      form: "zip" or "legacy"; weights: "ema" or "model"; key: the entry of the file that held them,
      or None; model_class: class of a pickled model, or None; prefix: what was cut off all names;
      class_names: list of str or None, from a pickled model; metadata: the block that
      `write_torch_file` put in, or None; checkpoint: the other plain values of the file, such as
      epoch, date, version, train_args.

  Raises:
    FileNotFoundError: there is no file at `path`.
    UserError: it is no such file, is damaged, holds no weights or not the ones asked for, or its
      pickle asks for something that is no part of a network's weights; the text names it.
  """
  path = existing_file(path)
  try:
    with open_torch_file(path) as contents:
      root = contents.root
      kind, key, weights = _choose(root, ema)
      is_module = _is_module(weights)
      entries = dict(_module_entries(weights)) if is_module else _state_dict_entries(weights)
      if not entries:
        raise UserError("its model has no parameters: give a file with weights")
      prefix, entries = _without_prefix(entries)
      state_dict = read_arrays(entries, contents)
      checkpoint = _plain_values(root, contents.file_size) if key else {}
  except ValueError as error:
    raise UserError(f"{path}: {error}") from None
  return TorchFile(
    state_dict,
    {
      "form": contents.form,
      "weights": kind,
      "key": key,
      "model_class": weights.class_name if is_module else None,
      "prefix": prefix,
      "class_names": _class_names(weights.state.get("names")) if is_module else None,
      "metadata": _metadata(weights),
      "checkpoint": checkpoint,
    },
  )


def to_float32(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same entries with every floating type turned to float32; all others stay as they are."""
  return {
    # NumPy gives the floating types of ml_dtypes (bfloat16, float8) the kind "V".
    name: array.astype(np.float32, copy=False) if array.dtype.kind in "fV" else array
    for name, array in state_dict.items()
  }


def write_torch_file(
  path: str | os.PathLike,
  state_dict: Mapping[str, np.ndarray],
  metadata: Mapping,
  *,
  force: bool = False,
) -> None:
  """Writes a state dict that torch.load and load_state_dict(strict=True) take as it is.

  The metadata is an attribute `pst_jax` (JSON text) of the pickled OrderedDict, and so no entry.

  Raises:
    UserError: PyTorch is not installed, or the file could not be written (see `atomic_write`).
  """
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{path}: writing this needs PyTorch; {how_to_install('torch')}, or choose .safetensors"
    ) from None

  def tensor(array: np.ndarray):
    array = np.array(array, order="C")  # a copy: torch shares memory and wants to own it
    if array.dtype == ml_dtypes.bfloat16:
      return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)

  tensors = OrderedDict((name, tensor(array)) for name, array in state_dict.items())
  setattr(tensors, METADATA_KEY, json.dumps(dict(metadata)))
  with atomic_write(path, force=force) as file:
    try:
      torch.save(tensors, file)
    except RuntimeError as error:  # how torch reports a full disk
      raise OSError(str(error).splitlines()[0]) from error


def _choose(root: object, ema: bool | None) -> tuple[str, str | None, dict | Placeholder]:
  """Finds the weights: (ema or model, key that held them, the state dict or module)."""
  found = {}
  for kind, keys in _WRAPPER_KEYS.items() if isinstance(root, dict) else ():
    for key in keys:
      if kind not in found and _is_weights(root.get(key)):
        found[kind] = key
  if not found and _is_weights(root):
    if ema:
      raise UserError("it holds one set of weights and no moving average: leave the choice out")
    return "model", None, root
  if not isinstance(root, dict):
    raise UserError(f"it holds {_described(root)}, where a state dict or checkpoint was expected")
  wanted = "ema" if ema or (ema is None and "ema" in found) else "model"
  if wanted not in found:
    names = ", ".join(printable(key) for key in list(root)[:12] if type(key) is str)
    what = {"ema": "no moving average (ema)", "model": "no model"}[wanted]
    other = f"take its {', '.join(found)}" if found else "give a file with weights"
    raise UserError(f"it has {what} under its entries ({names}): {other}")
  return wanted, found[wanted], root[found[wanted]]


def _is_module(value: object) -> bool:
  return type(value) is Placeholder and type(value.state) is dict and "_modules" in value.state


def _is_weights(value: object) -> bool:
  is_state_dict = isinstance(value, dict) and any(type(v) is Tensor for v in value.values())
  return is_state_dict or _is_module(value)


def _described(value: object) -> str:
  if type(value) is Placeholder:
    return f"an object of class {printable(value.class_name)}"
  return f"a value of type {type(value).__name__}"


def _state_dict_entries(weights: dict) -> dict[str, Tensor]:
  for name, value in weights.items():
    if type(name) is not str or type(value) is not Tensor:
      shown = printable(name) if type(name) is str else _described(name)
      raise UserError(
        f"its state dict has an entry {shown} that is {_described(value)}, where names and tensors "
        "were expected"
      )
  return weights


def _module_entries(module: Placeholder) -> Iterator[tuple[str, Tensor]]:
  """The entries that module.state_dict() would have, in the same order."""
  waiting, names = [("", module)], 0
  while waiting:
    prefix, module = waiting.pop()
    where = printable(prefix) or "at the top"
    if not _is_module(module):
      raise UserError(f"its module {where} is {_described(module)}: get the file again")
    parameters, buffers, modules = (
      module.state.get(table, {}) for table in ("_parameters", "_buffers", "_modules")
    )
    skipped = module.state.get("_non_persistent_buffers_set", set())
    tables = (parameters, buffers, modules)
    if not all(isinstance(table, dict) for table in tables) or not isinstance(skipped, set):
      raise UserError(f"its module {where} is damaged: get the file again")
    names += 1 + sum(map(len, tables))
    if names > _MAX_NAMES:
      raise UserError("its modules are nested without end: get the file again")
    entries = parameters | {name: value for name, value in buffers.items() if name not in skipped}
    yield from _state_dict_entries(_prefixed(prefix, entries)).items()
    children = _prefixed(prefix, modules)
    waiting.extend((f"{name}.", child) for name, child in reversed(children.items()))


def _prefixed(prefix: str, entries: dict) -> dict:
  """The entries that are not None, under their full names."""
  longest = max((len(name) for name in entries if type(name) is str), default=0)
  if len(prefix) + longest > _MAX_NAME_LENGTH or any(type(name) is not str for name in entries):
    raise UserError(f"its model has a damaged name below {printable(prefix)!r}: get the file again")
  return {prefix + name: value for name, value in entries.items() if value is not None}


def _without_prefix(entries: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
  """Cuts off the names what wrappers of a model put before all of them."""
  removed = ""
  for prefix in _PREFIXES:
    if all(name.startswith(prefix) for name in entries):
      entries = {name.removeprefix(prefix): tensor for name, tensor in entries.items()}
      removed += prefix
  return removed, entries


def _class_names(names: object) -> list[str] | None:
  """Names of the classes in their order, from Ultralytics' {0: name, 1: name, ...} or a list."""
  if type(names) is dict and list(names) == list(range(len(names))):
    names = list(names.values())
  return names if type(names) is list and all(type(name) is str for name in names) else None


def _metadata(weights: dict | Placeholder) -> dict | None:
  attributes = weights.attributes if type(weights) is OrderedEntries else {}
  try:
    metadata = json.loads(attributes.get(METADATA_KEY, "null"))
  except (TypeError, ValueError, RecursionError):
    return None
  return metadata if isinstance(metadata, dict) else None


def _plain_values(root: dict, file_size: int) -> dict:
  """The entries that are text, numbers, bools or None, or flat dictionaries of them."""
  plain = (str, int, float, bool)
  values, copied = {}, 0
  for key, value in root.items():
    if type(value) is Placeholder and not _is_module(value):
      value = value.state  # argparse's and Ultralytics' namespaces keep a dictionary
    copied += len(value) if isinstance(value, dict) else 0
    if copied > file_size:  # each entry takes more than a byte, but many keys can share them
      raise UserError("its entries beside the weights repeat without end: get the file again")
    if _is_weights(value):
      continue
    if type(value) is dict:
      value = {k: v for k, v in value.items() if type(k) is str and (v is None or type(v) in plain)}
    if type(key) is str and (type(value) in plain or (type(value) is dict and value)):
      values[key] = value
  return values
