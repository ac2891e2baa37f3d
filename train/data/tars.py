"""Where the files of a tar lie, also of tars inside a tar, so that nothing is ever extracted."""

import os
import pathlib
import tarfile
from typing import NamedTuple

from train.config import ConfigError

_BLOCK = 512


class Member(NamedTuple):
  """A file inside a tar.

  Attributes:
    name: as stored.
    offset: bytes from the start of the (outer) tar to the file's first byte.
    size: bytes of the file.
  """

  name: str
  offset: int
  size: int


def list_members(path: pathlib.Path, inside: Member | None = None) -> list[Member]:
  """The files of a tar, or of the tar that lies at `inside` in it; only headers are read.

  Raises:
    ConfigError: the tar is not there, cannot be read, is no tar, or ends too early.
  """
  what = f"{inside.name} in {path.name}" if inside else str(path)
  try:
    with open(path, "rb") as file:
      start, size = inside[1:] if inside else (0, os.fstat(file.fileno()).st_size)
      end = start + size
      file.seek(start)
      # From here on tarfile counts from the start of the file, hence offsets are the outer tar's.
      with tarfile.open(fileobj=file, mode="r:") as tar:
        found = [Member(each.name, each.offset_data, each.size) for each in tar if each.isfile()]
      # tarfile takes any header that it cannot read, or none, for the end; a real end is zeros.
      file.seek(tar.offset)
      if tar.offset + _BLOCK > end or file.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError(f"no header and no end at byte {tar.offset}")
      if not found:
        raise tarfile.ReadError("no files")
  except FileNotFoundError:
    raise ConfigError(
      f"{path} was not found: give the folder that holds it with --manual-dir"
    ) from None
  except OSError as error:
    raise ConfigError(
      f"{path} cannot be read ({error.strerror}): give the folder that holds it with --manual-dir,"
      " or check its permissions and the disk"
    ) from error
  except tarfile.TarError as error:
    raise ConfigError(
      f"{what} cannot be read as a tar ({error}): download it again, uncompressed"
    ) from error
  return found


def read_member(path: pathlib.Path, member: Member) -> bytes:
  """The bytes of one file of a tar; safe to call from many threads.

  Raises:
    ConfigError: they cannot be read, or the tar has become shorter.
  """
  try:
    with open(path, "rb", buffering=0) as file:
      content = os.pread(file.fileno(), member.size, member.offset)
  except OSError as error:
    raise ConfigError(
      f"{member.name} in {path} cannot be read ({error.strerror}): check the disk"
    ) from error
  if len(content) != member.size:
    raise ConfigError(f"{path} is cut short at {member.name}: download it again")
  return content
