"""Weights in .safetensors files: PyTorch's entry names and axes, in the order of the state dict."""

import json
import os
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from pst_jax.convert.formats.pickle_globals import DTYPES
from pst_jax.errors import UserError
from pst_jax.files import existing_file, write_output

METADATA_KEY = "pst_jax"
"""Our metadata block, a JSON text, in the format's map of text to text."""

ORDER_KEY = "pst_jax.order"
"""The entry names in order, a JSON list; the format itself sorts entries by type and name."""

_TYPES = {
  "F64": "float64",
  "F32": "float32",
  "F16": "float16",
  "BF16": "bfloat16",
  "F8_E4M3": "float8_e4m3fn",
  "F8_E5M2": "float8_e5m2",
  "C64": "complex64",
  "I64": "int64",
  "I32": "int32",
  "I16": "int16",
  "I8": "int8",
  "U64": "uint64",
  "U32": "uint32",
  "U16": "uint16",
  "U8": "uint8",
  "BOOL": "bool",
}


class SafetensorsFile(NamedTuple):
  """What `read_safetensors` returns: arrays by entry name, and the metadata block."""

  state_dict: dict[str, np.ndarray]
  metadata: dict


def read_safetensors(path: str | os.PathLike) -> SafetensorsFile:
  """Reads a .safetensors file, ours or anybody's.

  Returns:
    The state dict {entry name: array} in the order in which `write_safetensors` was given it (the
    file's order for files that others wrote), in the types that the file has; and the metadata
    block, or for files of others their own {text: text}.

  Raises:
    FileNotFoundError: there is no file at `path`.
    UserError: it is no safetensors file, or is damaged or cut short.
  """
  data = existing_file(path).read_bytes()
  try:
    entries = dict(safetensors.deserialize(data))
  except (safetensors.SafetensorError, ValueError, TypeError) as error:
    raise UserError(
      f"{path}: this is no safetensors file, or it is damaged or cut short ({error}); get it again"
    ) from None
  unknown = sorted({entry["dtype"] for entry in entries.values()} - _TYPES.keys())
  if unknown:
    raise UserError(f"{path}: it has entries of type {unknown[0]}: expected {', '.join(_TYPES)}")
  (header_size,) = struct.unpack_from("<Q", data)
  texts = json.loads(data[8 : 8 + header_size]).get("__metadata__") or {}
  try:
    arrays = {
      name: np.frombuffer(entry["data"], DTYPES[_TYPES[entry["dtype"]]]).reshape(entry["shape"])
      for name, entry in entries.items()
    }
  except (ValueError, OverflowError) as error:
    raise UserError(f"{path}: it has an entry that is no array ({error}); get it again") from None
  order = _json(texts.get(ORDER_KEY), list(arrays))
  is_names = isinstance(order, list) and all(type(name) is str for name in order)
  if not is_names or sorted(order) != sorted(arrays):
    raise UserError(f"{path}: its list of entry names does not fit its entries; get it again")
  block = _json(texts.get(METADATA_KEY), texts)
  if not isinstance(block, dict):
    raise UserError(f"{path}: its metadata block is damaged; get it again")
  return SafetensorsFile({name: arrays[name] for name in order}, block)


def _json(text: str | None, default: object) -> object:
  try:
    return default if text is None else json.loads(text)
  except (ValueError, RecursionError):
    return None


def write_safetensors(
  path: str | os.PathLike,
  state_dict: Mapping[str, np.ndarray],
  metadata: Mapping,
  *,
  force: bool = False,
) -> None:
  """Writes a state dict and a metadata block (plain values, kept as JSON).

  Raises:
    UserError: the file could not be written, or is there and not `force` (see `atomic_write`).
  """
  texts = {
    "format": "pt",  # what other readers call PyTorch's names and axes
    METADATA_KEY: json.dumps(dict(metadata)),
    ORDER_KEY: json.dumps(list(state_dict)),
  }
  # The library writes the memory behind an array as it lies, so it must lie in C order.
  arrays = {name: np.asarray(array, order="C") for name, array in state_dict.items()}
  try:
    data = safetensors.numpy.save(arrays, texts)
  except safetensors.SafetensorError as error:
    raise UserError(f"{path}: cannot hold these arrays ({error})") from None
  write_output(path, data, force=force)
