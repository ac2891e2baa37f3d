"""Files replaced where nothing can be renamed, as on some buckets that are mounted as folders."""

import contextlib
import errno
import os
from pathlib import Path

from pst_jax.presence import is_file

NO_RENAME = {errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system says that cannot rename."""


def overwrite(temporary: Path, target: Path) -> None:
  """Copies a file that is whole, and on the disk, over another one in the same folder.

  A note beside the target says from where, until it is done: `recover_file` does it again for a
  process that was killed meanwhile, or had no space.

  Raises:
    OSError: the target may be cut; while `is_pending`, the temporary file must stay.
  """
  _write(_note(target), temporary.name.encode())
  _write(target, temporary.read_bytes())
  _note(target).unlink(missing_ok=True)


def recover_file(target: Path) -> None:
  """Ends what `overwrite` could not; nothing happens where that cannot be, or need not."""
  if not is_pending(target):
    return
  with contextlib.suppress(OSError):
    # Half a note names no file: the target was not touched yet.
    temporary = target.with_name(_note(target).read_text() or target.name)
    if is_file(temporary) and temporary != target:
      _write(target, temporary.read_bytes())
      _note(target).unlink(missing_ok=True)
      temporary.unlink(missing_ok=True)
    else:
      _note(target).unlink(missing_ok=True)


def is_pending(target: Path) -> bool:
  """Whether `overwrite` did not come to its end."""
  return is_file(_note(target))


def _note(target: Path) -> Path:
  return target.with_name(f".{target.name}.pst_jax-pending")


def _write(path: Path, content: bytes) -> None:
  with open(path, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
