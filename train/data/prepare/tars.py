"""Where the files of a tar lie, also of tars inside a tar, so that nothing is ever extracted."""

import errno
import os
import pathlib
import stat

from pst_jax.errors import UserError
from train.data.prepare.tar_headers import Member, TarError, members


def list_members(path: pathlib.Path, inside: Member | None = None) -> list[Member]:
  """The files of a tar, or of the tar that lies at `inside` in it; only headers are read.

  Returns:
    Their offsets count from the start of the (outer) tar.

  Raises:
    UserError: the tar is not there, cannot be read, is no tar, ends too early, or holds a file
      that is sparse or larger than what is left of the tar.
  """
  what = f"{inside.name} in {path.name}" if inside else str(path)
  try:
    start, size = inside[1:] if inside else (0, _size(path))
    with open(path, "rb", buffering=0) as file:
      found = list(members(lambda n, at: os.pread(file.fileno(), n, at), start, start + size))
    if not found:
      raise TarError("no files")
  except FileNotFoundError:
    raise UserError(
      f"{path} was not found: give the folder that holds it with --manual-dir"
    ) from None
  except OSError as error:
    raise UserError(
      f"{path} cannot be read ({error.strerror}): give the folder that holds it with --manual-dir,"
      " or check its permissions and the disk"
    ) from error
  except TarError as error:
    raise UserError(
      f"{what} cannot be read as a tar ({error}): download it again, uncompressed"
    ) from error
  return found


def _size(path: pathlib.Path) -> int:
  """Asked for before it is opened, which for a FIFO would wait for ever."""
  status = path.stat()
  # Opening a folder raises what fits by itself.
  if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
    raise OSError(errno.EINVAL, "it is no regular file")
  return status.st_size


def read_member(path: pathlib.Path, member: Member) -> bytes:
  """The bytes of one file of a tar; safe to call from many threads.

  Raises:
    UserError: they cannot be read, or the tar has become shorter.
  """
  try:
    with open(path, "rb", buffering=0) as file:
      content = os.pread(file.fileno(), member.size, member.offset)
  except OSError as error:
    raise UserError(
      f"{member.name} in {path} cannot be read ({error.strerror}): check the disk"
    ) from error
  if len(content) != member.size:
    raise UserError(f"{path} is cut short at {member.name}: download it again")
  return content
