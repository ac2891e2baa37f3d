"""The headers of a tar, read strictly: sizes are compared with the file, sparse files are refused.

Python's tarfile takes memory for whatever size a header claims, and reads sparse files as others
than their bytes. Source: POSIX.1-2017, pax (ustar and pax interchange format); the GNU tar manual,
"Basic Tar Format", for long names and for numbers in base 256.
"""

from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
MAX_EXTENDED = 1 << 20
"""Bytes of a long name or of pax records; each describes the one file behind it."""

_FILES = frozenset(b"0\x007")
_DATALESS = frozenset(b"123456")  # links, devices, folders and FIFOs
_CHECKSUM = slice(148, 156)
_PAX_LOCAL, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK, _GNU_SPARSE = b"xgLKS"


class TarError(Exception):
  """The tar is damaged or of an unusual form; says what is wrong."""


class Member(NamedTuple):
  """A file of a tar.

  Attributes:
    name: as stored.
    offset: where its first byte lies.
    size: in bytes.
  """

  name: str
  offset: int
  size: int


def members(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Member]:
  """The regular files between two positions.

  Args:
    read: (count, position) -> so many bytes; fewer at the end of the file.
    start: where the first header lies.
    end: behind the last byte.

  Raises:
    TarError: a header is damaged or missing, claims more than there is, or is a sparse file's.
  """
  position, shared, local = start, {}, {}
  while (header := _header(read, position, end)) is not None:
    kind, data = header[156], position + BLOCK
    # The size in pax records is that of the file behind them, not that of other records.
    fact = ChainMap(local, shared) if kind in _FILES else {}
    size = 0 if kind in _DATALESS else fact.get("size", _number(header[124:136]))
    if size > end - data:
      raise TarError(f"byte {position} begins a file of {size} bytes, but {end - data} are left")
    if kind == _GNU_SPARSE:
      raise TarError(f"a sparse file at byte {position}")
    if kind in _EXTENSIONS:
      facts = shared if kind == _PAX_GLOBAL else local
      if size > MAX_EXTENDED:
        raise TarError(f"a name or pax records of {size} bytes")
      facts.update(_EXTENSIONS[kind](read(size, data)))
    else:
      name, local = fact.get("path") or _name(header), {}
      # Before POSIX, a folder was a file whose name ends in a slash.
      if kind in _FILES and not name.endswith("/"):
        yield Member(name, data, size)
    position = data + -(-size // BLOCK) * BLOCK


def _header(read: Callable[[int, int], bytes], position: int, end: int) -> bytes | None:
  """The header at a position; None at the end of the tar, which is a header of zeros."""
  header = read(BLOCK, position) if position + BLOCK <= end else b""
  if header == bytes(BLOCK):
    return None
  spaced = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
  try:
    if len(header) == BLOCK and _number(header[_CHECKSUM]) == sum(spaced):
      return header
  except TarError:
    pass
  raise TarError(f"no header and no end at byte {position}")


def _number(field: bytes) -> int:
  if field[0] & 0x80:  # GNU's base 256; a negative one has all bits of the first byte set
    return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
  digits = field.split(b"\0")[0].strip(b" ")
  if digits.strip(b"01234567"):
    raise TarError("a number that is not octal")
  return int(digits or b"0", 8)


def _decimal(text: bytes) -> int:
  if not (text.isdigit() and len(text) < 20):
    raise TarError("a size that is no number")
  return int(text)


def _name(header: bytes) -> str:
  name, prefix = _text(header[:100]), _text(header[345:500])
  is_ustar = header[257:263] == b"ustar\0"
  return f"{prefix}/{name}" if is_ustar and prefix else name


def _text(field: bytes) -> str:
  return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax_facts(content: bytes) -> dict[str, str | int]:
  """Path and size from pax records; of all the others nothing is needed."""
  facts = {}
  for key, value in _pax_records(content):
    if key.startswith(b"GNU.sparse."):
      raise TarError("a sparse file")
    if key == b"path":
      facts["path"] = _text(value)
    if key == b"size":
      facts["size"] = _decimal(value)
  return facts


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Lines "LENGTH KEY=VALUE", where LENGTH counts the whole line; zeros may follow."""
  position = 0
  while position < len(content) and content[position]:
    length, blank, _ = content[position : position + 20].partition(b" ")
    end = position + _decimal(length)
    line = content[position + len(length) + 1 : end]
    key, equals, value = line.partition(b"=")
    if not (blank and equals and line.endswith(b"\n") and end <= len(content)):
      raise TarError("damaged pax records")
    yield key, value[:-1]
    position = end


_EXTENSIONS: dict[int, Callable[[bytes], dict]] = {
  _PAX_LOCAL: _pax_facts,
  _PAX_GLOBAL: _pax_facts,
  _GNU_NAME: lambda content: {"path": _text(content)},
  _GNU_LINK: lambda content: {},
}
"""What may stand before a file's header: facts that replace those of that header."""
