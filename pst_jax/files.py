"""Files and folders on disk: checked before they are read, written whole or not at all."""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pst_jax import buckets
from pst_jax.errors import MissingFileError, UserError
from pst_jax.overwrite import NO_RENAME, is_pending, overwrite, recover_file
from pst_jax.presence import is_file, is_folder, is_there

# What NFS says without its lock daemon, and Lustre that was mounted without `flock`.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}

_log = logging.getLogger(__name__)


def existing_file(path: str | os.PathLike) -> Path:
  """Returns `path` if it is a file that holds something.

  Raises:
    MissingFileError: there is nothing.
    UserError: it is a directory or a device, or it is empty.
  """
  path = Path(path)
  recover_file(path)
  if not is_there(path):
    raise MissingFileError(f"{path}: there is no such file; check the path")
  if not is_file(path):
    kind = "a directory" if is_folder(path) else "no regular file"
    raise UserError(f"{path}: this is {kind}, where a file of weights was expected")
  if path.stat().st_size == 0:
    raise UserError(f"{path}: this file is empty, where weights were expected; get it again")
  return path


@contextlib.contextmanager
def atomic_write(dest: str | os.PathLike, *, force: bool = False) -> Iterator[BinaryIO]:
  """Yields a file to write; it becomes `dest` when the block ends, and vanishes if the block fails.

  The bytes go to a temporary file in the same folder, are flushed to the disk, and replace `dest`
  in one step, so that nobody ever sees half a file, also after a power failure. A link is followed
  to the file that it names. Where nothing can be renamed, see `overwrite`.

  Raises:
    UserError: `dest` exists and `force` is false, is no regular file, has no folder, or could not
      be written (no permission, disk full).
  """
  with atomic_writes(dest, force=force) as (file,):
    yield file


@contextlib.contextmanager
def atomic_writes(*dests: str | os.PathLike, force: bool = False) -> Iterator[list[BinaryIO]]:
  """As `atomic_write`, for files that belong together: all are written before any gets its name.

  Files that are replaced lose their names first, all but the last: a process that is killed between
  the renames leaves the last file alone, the old or the new one, never an old one beside a new one.
  """
  if any(map(buckets.is_url, dests)):
    with buckets.uploads(*dests, force=force) as files:
      yield files
    return
  targets = [Path(os.path.realpath(dest)) for dest in dests]
  for dest in dests:
    check_free(dest, force=force)
  temporaries = [t.with_name(f".pst_jax-{secrets.token_hex(8)}.tmp") for t in targets]
  try:
    with contextlib.ExitStack() as stack:
      files = [stack.enter_context(open(temporary, "xb")) for temporary in temporaries]
      yield files
      for file in files:
        file.flush()
        os.fsync(file.fileno())
    for dest in dests:
      check_free(dest, force=force)  # writing takes a while, and others write too
    try:
      _rename_together(temporaries, targets)
    except OSError as error:
      if error.errno not in NO_RENAME:
        raise
      for temporary, target in zip(temporaries, targets, strict=True):
        overwrite(temporary, target)
  except OSError as error:
    if isinstance(error, UserError):
      raise
    names = " and ".join(map(str, dests))
    reason = error.strerror or error
    raise UserError(f"{names}: could not be written ({reason}); nothing was changed") from error
  finally:
    for temporary, target in zip(temporaries, targets, strict=True):
      with contextlib.suppress(OSError):
        if not is_pending(target):
          temporary.unlink(missing_ok=True)


def _rename_together(temporaries: list[Path], targets: list[Path]) -> None:
  olds = {t.with_suffix(".old"): to for t, to in zip(temporaries, targets[:-1], strict=False)}
  try:
    for old, target in olds.items():
      if is_there(target):
        target.rename(old)
    for temporary, target in reversed(list(zip(temporaries, targets, strict=True))):
      os.replace(temporary, target)
  except OSError:
    for old, target in olds.items():
      if old.exists() and not target.exists():
        old.rename(target)
    raise
  for old in olds:
    old.unlink(missing_ok=True)
  try:
    for folder in {target.parent for target in targets}:
      sync_folder(folder)
  except OSError as error:
    names = " and ".join(map(str, targets))
    raise UserError(
      f"{names}: written, but the disk failed to keep the new names ({error.strerror}), and a power"
      " failure may bring the old ones back: mend the disk, then write again"
    ) from error


def check_free(dest: str | os.PathLike, *, force: bool = False) -> None:
  """Raises UserError for a place where `atomic_write` would not write."""
  if buckets.is_url(dest):
    buckets.check_free(dest, force=force)
    return
  target = Path(os.path.realpath(dest))
  if not is_folder(target.parent):
    raise UserError(f"{dest}: the folder {target.parent} does not exist; make it first")
  if is_there(target) and not is_file(target):
    kind = "a directory" if is_folder(target) else "no regular file"
    raise UserError(f"{dest}: this is {kind}; give the name of a file to write")
  if is_there(target) and not force:
    raise UserError(f"{dest}: this file exists and is kept; choose another name or use --force")


def write_output(path: str | os.PathLike, content: bytes, *, force: bool = False) -> None:
  """Writes a file whole; arguments and errors as `atomic_write`."""
  with atomic_write(path, force=force) as file:
    file.write(content)


def sync_folder(folder: Path) -> None:
  """Waits until the names in a folder are on the disk: a rename alone is not, until then."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


@contextlib.contextmanager
def lock(path: Path, *, unwritable: str, busy: str) -> Iterator[TextIO]:
  """Holds a file as a lock between processes, and yields it open; its folder is made.

  The system drops the lock with the process, however that ends.

  Args:
    path: the file; it is made and stays.
    unwritable: what to say if it cannot be made; the text `{reason}` is replaced by the reason.
    busy: what to say if another process holds it.

  Raises:
    UserError: with one of the two texts.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+")  # noqa: SIM115
  except OSError as error:
    raise UserError(unwritable.replace("{reason}", str(error.strerror))) from None
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(busy) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise UserError(unwritable.replace("{reason}", str(error.strerror))) from None
      _log.warning(
        "%s: nothing can be locked here (%s), so that nobody notices a second process "
        "that writes here",
        path,
        error.strerror,
      )
    yield file
  finally:
    # Closing tries again to write what could not be written, which was told then.
    with contextlib.suppress(OSError):
      file.close()


def require_space(folder: str | os.PathLike, needed: int, subject: str, advice: str) -> int:
  """Bytes that are free on the disk of an existing folder.

  Args:
    folder: on that disk.
    needed: bytes.
    subject: what needs them, with its verb: "the checkpoints need".
    advice: what to do if there are fewer.

  Raises:
    UserError: the disk has less than needed.
  """
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise UserError(
      f"{subject} {needed / 1e9:.3g} GB in {folder}, and {free / 1e9:.3g} GB are free; {advice}"
    )
  return free


def local_folder(path: str | os.PathLike, option: str) -> Path:
  """The path of a folder on a disk, also a mounted one.

  Args:
    path: as the user gave it; `~` is the home folder.
    option: what it was given for, for the error.

  Raises:
    UserError: it is empty, or the URL of a bucket. As paths these would be the current folder, and
      a new local folder called `gs:`. Or it is no UTF-8, or nobody knows the home folder that it
      names.
  """
  return place(path, option, schemes=())


def place(path: str | os.PathLike, option: str, schemes: tuple[str, ...] = ("gs", "s3")):
  """As `local_folder`, but also the path of a folder in a bucket, see `buckets.bucket_path`."""
  if not os.fspath(path):
    raise UserError(f"{option} is an empty text: give the name of a folder")
  if buckets.is_url(path):
    return buckets.bucket_path(path, option, schemes)
  require_utf8(path, option)
  try:
    return Path(path).expanduser()
  except RuntimeError:
    raise UserError(
      f"{path} begins with a home folder that nobody knows: write the path out"
    ) from None


def require_utf8(path: str | os.PathLike, what: str) -> None:
  """Raises UserError for a name whose bytes are no UTF-8, which no array can be saved under."""
  try:
    os.fspath(path).encode()
  except UnicodeEncodeError:
    raise UserError(f"{what} is {str(path)!r}, which is no UTF-8: choose another name") from None


def parse_json(text: str | bytes) -> Any:
  """The value of a JSON text.

  Raises:
    ValueError: it is no JSON, or is nested too deeply to be read.
  """
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError("it is nested too deeply") from None


def finite_or_text(value: Any) -> Any:
  """What JSON can hold of a value: NaN and infinities become texts."""
  return str(value) if isinstance(value, float) and not math.isfinite(value) else value
