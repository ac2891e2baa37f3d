"""Files on disk: checked before they are read, written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def existing_file(path: str | os.PathLike) -> Path:
  """Returns `path` if it is a file that holds something.

  Raises:
    FileNotFoundError: there is nothing.
    ValueError: it is a directory or a device, or it is empty.
  """
  path = Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path}: there is no such file; check the path")
  if not path.is_file():
    kind = "a directory" if path.is_dir() else "no regular file"
    raise ValueError(f"{path}: this is {kind}, where a file of weights was expected")
  if path.stat().st_size == 0:
    raise ValueError(f"{path}: this file is empty, where weights were expected; get it again")
  return path


@contextlib.contextmanager
def atomic_write(dest: str | os.PathLike, *, force: bool = False) -> Iterator[BinaryIO]:
  """Yields a file to write; it becomes `dest` when the block ends, and vanishes if the block fails.

  The bytes go to a temporary file in the same folder, are flushed to the disk, and replace `dest`
  in one step, so that nobody ever sees half a file. A link is followed to the file that it names.

  Args:
    dest: where the file goes; its folder must exist.
    force: replace a file that is there.

  Raises:
    ValueError: `dest` exists and `force` is false, is no regular file, has no folder, or could not
      be written (no permission, disk full).
  """
  target = Path(os.path.realpath(dest))
  check_free(dest, force=force)
  temporary = target.with_name(f".pst_jax-{secrets.token_hex(8)}.tmp")
  try:
    with open(temporary, "xb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    check_free(dest, force=force)  # writing takes a while, and others write too
    os.replace(temporary, target)
  except OSError as error:
    reason = error.strerror or error
    raise ValueError(f"{dest}: could not be written ({reason}); nothing was changed") from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)


def check_free(dest: str | os.PathLike, *, force: bool = False) -> None:
  """Raises ValueError for a place where `atomic_write` would not write."""
  target = Path(os.path.realpath(dest))
  if not target.parent.is_dir():
    raise ValueError(f"{dest}: the folder {target.parent} does not exist; make it first")
  if target.exists() and not target.is_file():
    kind = "a directory" if target.is_dir() else "no regular file"
    raise ValueError(f"{dest}: this is {kind}; give the name of a file to write")
  if target.exists() and not force:
    raise ValueError(f"{dest}: this file exists and is kept; choose another name or use --force")
