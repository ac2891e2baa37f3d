"""The size that an image file claims, from its header alone: no pixel is decoded for it.

A file of a few kilobytes may claim billions of pixels, and a decoder takes memory for all of them.
Sources: ISO/IEC 10918-1 B.2 (JPEG), ISO/IEC 15948 (PNG), RFC 9649 (WebP), TIFF 6.0 and BigTIFF,
GIF89a, Microsoft's BITMAPCOREHEADER and BITMAPINFOHEADER (BMP), Netpbm's manual pages (PNM).
"""

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Size(NamedTuple):
  """Pixels of an image, before any turning that an orientation tag asks for."""

  height: int
  width: int

  @property
  def pixels(self) -> int:
    return self.height * self.width


def image_size(encoded: bytes) -> Size | None:
  """The size in the header of a JPEG, PNG, WebP, BMP, GIF, TIFF or PNM file.

  Returns:
    The size (of a TIFF, that of its tiles where these are larger), or None: the file is of another
    form, or its header is damaged or cut short.
  """
  for start, read in _READERS.items():
    if start.match(encoded):
      try:
        size = read(encoded)
      except (struct.error, IndexError, OverflowError, ValueError):
        return None
      return size if size and size.pixels else None
  return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
  """Every marker, and where its segment begins, with the two bytes of its length."""
  position = 2
  while True:
    # Any number of fill bytes may stand before a marker.
    position = data.index(b"\xff", position)
    while data[position] == 0xFF:
      position += 1
    marker, position = data[position], position + 1
    yield marker, position
    if marker not in _JPEG_ALONE:
      position += max(2, struct.unpack_from(">H", data, position)[0])


def _jpeg(data: bytes) -> Size | None:
  for marker, position in _jpeg_segments(data):
    if marker in _JPEG_FRAMES:
      return Size(*struct.unpack_from(">HH", data, position + 3))
    if marker in _JPEG_ENDS:
      break
  return None


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ENDS = frozenset({0xD8, 0xD9, 0xDA})
_JPEG_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})


def _webp(data: bytes) -> Size | None:
  kind = data[12:16]
  if kind == b"VP8X":
    sides = struct.unpack_from("<6B", data, 24)
    width, height = (int.from_bytes(side, "little") + 1 for side in (sides[:3], sides[3:]))
  elif kind == b"VP8L":
    bits = struct.unpack_from("<I", data, 21)[0]
    width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
  elif kind == b"VP8 ":
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
  else:
    return None
  return Size(height, width)


def _bmp(data: bytes) -> Size:
  header_size = struct.unpack_from("<I", data, 14)[0]
  width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
  return Size(abs(height), abs(width))


_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_SIDES = (257, 256), (323, 322)  # of the image, of its tiles


def _tiff(data: bytes) -> Size | None:
  order = "<" if data[:1] == b"I" else ">"
  sides = {}
  for tag, value in _tiff_entries(data, order, big=data[2:4].strip(b"\0") == b"+"):
    # Which one of two entries of one tag counts is the decoder's choice.
    sides[tag] = max(value, sides.get(tag, 0))
  sizes = [Size(sides.get(height, 0), sides.get(width, 0)) for height, width in _TIFF_SIDES]
  return max(sizes, key=lambda size: size.pixels)


def _tiff_entries(data: bytes, order: str, big: bool) -> Iterator[tuple[int, int]]:
  """The tags of the first image that hold one number, with it."""
  first, count, entry, value_at = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
  start = struct.unpack_from(order + first, data, 8 if big else 4)[0]
  entries = struct.unpack_from(order + count, data, start)[0]
  start += struct.calcsize(order + count)
  for position in itertools.islice(range(start, len(data), entry), entries):
    tag, kind = struct.unpack_from(order + "HH", data, position)
    if kind in _TIFF_NUMBERS:
      number = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, position + value_at)[0]
      yield tag, number


_PNM_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])*"
# A number ends at the first blank: decoders differ in what a comment right behind it means.
_PNM_SIZE = re.compile(rb"P\d\s%b(\d{1,10})\s%b(\d{1,10})\s" % (_PNM_SPACE, _PNM_SPACE))
_PNM_LIMIT = 4096


def _pnm(data: bytes) -> Size | None:
  found = _PNM_SIZE.match(data[:_PNM_LIMIT])
  return Size(int(found[2]), int(found[1])) if found else None


_READERS: dict[re.Pattern, Callable[[bytes], Size | None]] = {
  re.compile(rb"\xff\xd8\xff"): _jpeg,
  re.compile(rb"\x89PNG\r\n\x1a\n"): lambda data: Size(*struct.unpack_from(">II", data, 16)[::-1]),
  re.compile(rb"RIFF....WEBP", re.DOTALL): _webp,
  re.compile(rb"BM"): _bmp,
  re.compile(rb"GIF8[79]a"): lambda data: Size(*struct.unpack_from("<HH", data, 6)[::-1]),
  re.compile(rb"II[*+]\0|MM\0[*+]"): _tiff,
  re.compile(rb"P[1-6]"): _pnm,
}


def is_turned(encoded: bytes) -> bool | None:
  """Whether the EXIF orientation of a JPEG, PNG or BMP exchanges height and width.

  Returns:
    None: it cannot be told from the header; what a decoder makes of the file must be seen.
  """
  for start, read in _TURNED.items():
    if encoded.startswith(start):
      try:
        return read(encoded)
      except (struct.error, IndexError, ValueError):
        return None
  return None


def _is_jpeg_turned(data: bytes) -> bool | None:
  turned = []
  for marker, position in _jpeg_segments(data):
    if marker in _JPEG_ENDS:
      # Which one of several counts is the decoder's choice.
      return None if len(turned) > 1 else turned == [True]
    if marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
      (length,) = struct.unpack_from(">H", data, position)
      turned.append(5 <= _exif_orientation(data[position + 8 : position + length]) <= 8)
  return None


def _exif_orientation(tiff: bytes) -> int:
  order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
  if order is None:
    return 1
  (first,) = struct.unpack_from(order + "I", tiff, 4)
  (count,) = struct.unpack_from(order + "H", tiff, first)
  for entry in range(count):
    tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * entry)
    if tag == 0x0112:
      return value
  return 1


def _is_png_turned(data: bytes) -> bool | None:
  position = 8
  while True:
    length, kind = struct.unpack_from(">I4s", data, position)
    if kind in (b"eXIf", b"IEND"):  # the tags may also stand behind the pixels
      return False if kind == b"IEND" else None
    position += length + 12


_TURNED: dict[bytes, Callable[[bytes], bool | None]] = {
  b"\xff\xd8": _is_jpeg_turned,
  b"\x89PNG": _is_png_turned,
  b"BM": lambda data: False,
}
