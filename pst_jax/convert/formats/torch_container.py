"""What torch.save writes around a pickle: a zip archive (since PyTorch 1.6) or the older stream.

Both hold one pickle and, outside of it, the bytes of the tensors' storages. Nothing is extracted to
the disk, and no memory is taken for a size that the file only claims.
"""

import contextlib
import io
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pst_jax.convert.formats import data_pickle
from pst_jax.convert.formats.pickle_globals import Storage, Tensor, printable
from pst_jax.errors import UserError

_ZIP_START = b"PK\x03\x04"
_PICKLE_START = b"\x80"
_LEGACY_START = [0x1950A86A20F9469CFC6C, 1001]  # magic number and version of the old format

REPEAT_LIMIT = 16
"""Entries may share or repeat stored elements, up to so many times the file's size in all."""

_EXPECTED = "expected what torch.save(model.state_dict(), ...) writes"


@dataclass(frozen=True)
class Contents:
  """An open file: its pickled value and a reader of the bytes [size] uint8 of a storage."""

  root: object
  read: Callable[[Storage], np.ndarray]
  form: str
  file_size: int
  byte_order: str = "little"


@contextlib.contextmanager
def open_torch_file(path: Path) -> Iterator[Contents]:
  """Opens what torch.save wrote; storages can be read until the block ends.

  Raises:
    UserError: the file is something else, is damaged, or is refused (see `pickle_globals`).
  """
  with open(path, "rb") as file:
    start = file.read(len(_ZIP_START))
    size = os.fstat(file.fileno()).st_size
    if start == _ZIP_START:
      with _zip_damage():
        archive = zipfile.ZipFile(file)
      yield _read_zip(archive, size)
    elif start.startswith(_PICKLE_START):
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        yield _read_legacy(stream, size)
    else:
      raise UserError(f"this is no PyTorch file (neither a zip archive nor a pickle): {_EXPECTED}")


@contextlib.contextmanager
def _zip_damage() -> Iterator[None]:
  # zipfile has no single exception for damage: it depends on which field is wrong.
  kinds = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, struct.error)
  try:
    yield
  except kinds as error:
    raise UserError(
      f"its zip archive is damaged or cut short ({printable(str(error))}); get the file again"
    ) from None


def _read_zip(archive: zipfile.ZipFile, size: int) -> Contents:
  records = _records(archive, size)

  def content(name: str) -> bytes:
    with _zip_damage():
      return archive.read(records[name])

  def read(storage: Storage) -> np.ndarray:
    name = f"data/{storage.key}"
    if name not in records:
      raise UserError(f"its pickle names the record {printable(name)}, which the archive lacks")
    _check_storage(storage, records[name].file_size)
    return np.frombuffer(bytearray(content(name)), np.uint8)

  if "constants.pkl" in records:
    raise UserError(f"this is a TorchScript archive, not a file of weights: {_EXPECTED}")
  if "data.pkl" not in records:
    raise UserError(f"this zip archive has no record data.pkl: {_EXPECTED}")
  root, _ = data_pickle.load(io.BytesIO(content("data.pkl")))
  byte_order = content("byteorder").decode("latin-1") if "byteorder" in records else "little"
  if byte_order not in ("little", "big"):
    raise UserError(f"its byte order is {printable(byte_order)}, where little or big was expected")
  return Contents(root, read, "zip", size, byte_order)


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
  """The records by their name inside the archive's one folder; raises ValueError for tricks."""
  records = {}
  folders = {record.filename.partition("/")[0] for record in archive.infolist()}
  for record in archive.infolist():
    name, shown = record.filename.partition("/")[2], printable(record.filename)
    if len(folders) > 1 or ".." in record.filename.split("/"):
      raise UserError(f"refused, because its record {shown} may lie outside the archive's folder")
    if name in records:
      raise UserError(f"refused, because it has two records called {shown}; get the file again")
    if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
      raise UserError(
        f"its record {shown} is compressed, which torch.save never does: unpack the archive and "
        "pack it again without compression (zip -0 -r)"
      )
    records[name] = record
  if sum(record.file_size for record in records.values()) > size:
    raise UserError("its zip records claim more bytes than the file has; get the file again")
  return records


def _check_storage(storage: Storage, stored: int) -> None:
  claimed = storage.size * storage.dtype.itemsize
  if claimed > stored:
    raise UserError(
      f"its pickle claims {claimed} bytes for the storage {printable(storage.key)}, where the file "
      f"holds {stored}; get the file again"
    )


def _read_legacy(stream: mmap.mmap, size: int) -> Contents:
  """Reads five pickles (magic number, version, machine, value, keys) and finds the storages."""
  if [data_pickle.load(stream)[0]] != _LEGACY_START[:1]:
    raise UserError(f"this is a pickle that torch.save did not write: {_EXPECTED}")
  version, _ = data_pickle.load(stream)
  if version != _LEGACY_START[1]:
    raise UserError(
      "its format is that of PyTorch before 0.4: load it and save it again with torch 1.6"
    )
  data_pickle.load(stream)
  root, storages = data_pickle.load(stream)
  keys, _ = data_pickle.load(stream)
  if type(keys) is not list or any(type(key) is not str for key in keys):
    raise UserError("its list of storages is damaged; get the file again")
  records = {}
  position = stream.tell()
  for key in keys:
    # Each storage is its number of elements (64 bits, always little-endian) and then its bytes.
    start = position + 8
    storage = storages.get(key)
    count = struct.unpack_from("<q", stream, position) if start <= size else None
    if storage is None or count != (storage.size,):
      raise UserError("its list of storages is damaged or cut short; get the file again")
    _check_storage(storage, size - start)
    position = start + storage.size * storage.dtype.itemsize
    records[key] = slice(start, position)

  def read(storage: Storage) -> np.ndarray:
    if storage.key not in records:
      raise UserError(f"its pickle names the storage {printable(storage.key)}, which it lacks")
    return np.frombuffer(bytearray(stream[records[storage.key]]), np.uint8)

  return Contents(root, read, "legacy", size)


def read_arrays(entries: Mapping[str, Tensor], contents: Contents) -> dict[str, np.ndarray]:
  """Reads the elements of tensors; those that share a storage in the file share memory.

  Raises:
    UserError: a tensor reaches beyond its storage, a storage is missing or shorter than claimed,
      or all of them are more than `REPEAT_LIMIT` times as large as the file.
  """
  # An axis without elements counts as one: NumPy cannot hold gigantic axes beside it either.
  claimed = sum(
    math.prod(max(size, 1) for size in entry.shape) * entry.dtype.itemsize
    for entry in entries.values()
  )
  if claimed > REPEAT_LIMIT * contents.file_size:
    raise UserError(
      f"its entries claim more than {REPEAT_LIMIT} times the {contents.file_size} bytes of the "
      "file: save copies without repeated elements (tensor.contiguous())"
    )
  storages: dict[str, np.ndarray] = {}
  arrays = {}
  for name, tensor in entries.items():
    key = tensor.storage.key
    if key not in storages:
      storages[key] = contents.read(tensor.storage)
    array = _view(name, tensor, storages[key])
    arrays[name] = array if contents.byte_order == "little" else array.byteswap()
  return arrays


def _view(name: str, tensor: Tensor, data: np.ndarray) -> np.ndarray:
  itemsize = tensor.dtype.itemsize
  if 0 in tensor.shape:
    return np.empty(tensor.shape, tensor.dtype)
  # The stride of an axis with one element has no meaning, and may be any number.
  strides = [0 if n == 1 else s for n, s in zip(tensor.shape, tensor.strides, strict=True)]
  last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
  if (last + 1) * itemsize > data.nbytes:
    raise UserError(
      f"its entry {printable(name)} reaches to element {last} of a storage of "
      f"{data.nbytes // itemsize} elements; get the file again"
    )
  return np.ndarray(
    tensor.shape, tensor.dtype, data, tensor.offset * itemsize, [s * itemsize for s in strides]
  )
