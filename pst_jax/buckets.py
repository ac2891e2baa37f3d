"""Files in buckets: gs:// and s3:// as paths, through etils' epath and fsspec's drivers.

A path in a bucket has pathlib's methods, and an object is whole or not there. What goes wrong is an
OSError with a reason in words, as of a disk; the drivers try again first, what may pass, a few
times. Everything here takes a path of the local disk for what it is as well, where it says so.
"""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from pst_jax.errors import MissingFileError, UserError
from pst_jax.install import how_to_install

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)")
DRIVERS = {"gs": "gcsfs", "s3": "s3fs"}

_CONNECT_SECONDS, _SILENT_SECONDS = 30.0, 60.0
"""So long a store may say nothing, until the request counts as failed and is tried again."""
_REFUSED = (
  "access was refused ({}): sign in (gs://: gcloud auth application-default login, or "
  "GOOGLE_APPLICATION_CREDENTIALS; s3://: AWS's variables or profile) with an account that may "
  "use this bucket"
)


def is_url(path: str | os.PathLike) -> bool:
  """Whether a path names something in a bucket, or anywhere else on the net."""
  return _URL.match(os.fspath(path)) is not None


def bucket_path(url: str | os.PathLike, what: str, schemes: tuple[str, ...] = ("gs", "s3")):
  """The `etils.epath.Path` of a URL.

  Args:
    url: `gs://bucket/a/b`, or `s3://bucket/a/b`.
    what: what it was given for, for the error.
    schemes: those that will do.

  Raises:
    UserError: it is a URL of another kind, or names no bucket; the driver is not installed.
  """
  scheme, bucket = _URL.match(os.fspath(url)).groups()
  if scheme not in schemes:
    good = "only " + " and ".join(f"{each}://" for each in schemes) if schemes else "no bucket"
    raise UserError(
      f"{what} is {url}, but {good} can be used here directly: mount it (gcsfuse, mount-s3) and "
      "give the mounted folder, or copy it to a local disk"
    )
  if not bucket:
    raise UserError(f"{what} is {url}, which names no bucket: write {scheme}://BUCKET/FOLDER")
  _install(scheme)
  from etils import epath

  return epath.Path(os.fspath(url).rstrip("/"))


@functools.cache
def _install(scheme: str) -> None:
  """Lets fsspec's driver of a scheme raise OSErrors, see no old listings, and not wait forever."""
  # Where TensorFlow is installed etils would go through that, whose errors are of other kinds.
  os.environ.setdefault("EPATH_USE_TF", "false")
  try:
    import fsspec

    if scheme == "gs":
      fsspec.register_implementation("gcs", _gcs_driver(), clobber=True)
    else:
      import s3fs  # noqa: F401

      fsspec.config.conf["s3"] = {"use_listings_cache": False} | fsspec.config.conf.get("s3", {})
  except ImportError as error:
    raise UserError(
      f"paths of {scheme}:// need {DRIVERS[scheme]} and etils ({error}): "
      f"{how_to_install(DRIVERS[scheme], 'etils', 'fsspec')}"
    ) from None


def _gcs_driver() -> type:
  # The log of a request that fails holds its traceback; the error itself is raised and told.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  # Orbax's and TFDS's records are read by C++ libraries with an address of their own.
  if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
    for name in ("TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
      os.environ.setdefault(name, emulator)
  os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", f"{_SILENT_SECONDS:.0f}")
  os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
  import aiohttp
  from gcsfs.core import GCSFileSystem

  patience = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)

  class Driver(GCSFileSystem):
    """gcsfs, whose errors are those of an operating system."""

    def __init__(self, *arguments, **options):
      defaults = {"use_listings_cache": False, "requests_timeout": patience}
      super().__init__(*arguments, **defaults | options)

    async def _request(self, *arguments, **options):
      try:
        return await super()._request(*arguments, **options)
      except Exception as error:
        raise os_error(error) from error

    async def _isdir(self, path):
      # gcsfs takes every error for a no, which would make a checkpoint that is there pass for gone.
      try:
        return (await self._info(path))["type"] == "directory"
      except FileNotFoundError:
        return False

  return Driver


def os_error(error: Exception) -> OSError:
  """What a driver raised as an OSError with a number, and a reason in words as its `strerror`."""
  if isinstance(error, OSError) and error.errno is not None:
    return error
  text = (str(error).strip() or type(error).__name__).splitlines()[-1][:150]
  code = getattr(error, "code", None)
  names = {each.__name__ for each in type(error).__mro__}
  if isinstance(error, FileExistsError):
    return FileExistsError(errno.EEXIST, "it exists")
  if isinstance(error, FileNotFoundError):
    return FileNotFoundError(errno.ENOENT, "there is no such bucket or object")
  credentials = {"GoogleAuthError", "NoCredentialsError", "TokenRetrievalError"}
  if code in (401, 403) or "Forbidden" in str(error) or names & credentials:
    return PermissionError(errno.EACCES, _REFUSED.format(text))
  if names & {"TimeoutError", "ClientError"} or isinstance(error, TimeoutError):
    return TimeoutError(errno.ETIMEDOUT, "the store does not answer")
  return OSError(errno.EIO, f"the store answers: {text}")


def reason_of_reader(text: str) -> str | None:
  """Why a store did not serve array_record's own reader; None: its words are of no store."""
  if not any(mark in text for mark in ("Permanent error", "Retry policy exhausted")):
    return None
  refused = re.search(r'"code": ?(40[13])\b', text)
  return _REFUSED.format(refused[1]) if refused else f"the store answers: {text[:150]}"


@contextlib.contextmanager
def told(path, verb: str) -> Iterator[None]:
  """Turns what goes wrong with a path in a bucket into one sentence."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise UserError(f"{path} cannot be {verb} ({os_error(error).strerror})") from error


def is_absent(path) -> bool:
  """Whether there is nothing at a path in a bucket; UserError if nobody can tell."""
  with told(path, "read"):
    return not path.exists()


def require_writable(folder) -> None:
  """Writes an object into a folder of a bucket, reads it and deletes it.

  Raises:
    UserError: one of the three failed.
  """
  probe, content = folder / f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)
  with told(folder, "written"):
    probe.write_text(content)
    found = probe.read_text()
    probe.unlink()
  if found != content:
    raise UserError(f"{folder} gives back other bytes than were written: use another bucket")


def check_free(dest: str | os.PathLike, *, force: bool = False) -> None:
  """Raises UserError for a place in a bucket where `uploads` would not write."""
  path = bucket_path(dest, "the file to write")
  with told(path, "read"):
    exists = path.exists()
  if exists and not force:
    raise UserError(f"{dest}: this object exists and is kept; choose another name or use --force")


@contextlib.contextmanager
def uploads(*dests: str | os.PathLike, force: bool = False) -> Iterator[list[BinaryIO]]:
  """As `files.atomic_writes`, into buckets: each object appears whole, when the block has ended."""
  for dest in dests:
    check_free(dest, force=force)
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(tempfile.TemporaryFile()) for _ in dests]
    yield files
    for dest, file in reversed(list(zip(dests, files, strict=True))):
      check_free(dest, force=force)
      path = bucket_path(dest, "the file to write")
      file.seek(0)
      with told(path, "written; nothing was changed"):
        path.write_bytes(file.read())


@contextlib.contextmanager
def local_copy(path, *, folders: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
  """Yields a path on the local disk with what is at a path in a bucket, as long as the block lasts.

  A local path is yielded as it is, and so is a folder in a bucket of the schemes `folders`.
  """
  if not is_url(path):
    yield path
    return
  with told(path, "read"):
    if not path.exists():
      raise MissingFileError(f"{path}: there is nothing; check the name")
    is_folder = path.is_dir()
  if is_folder and os.fspath(path).startswith(tuple(f"{scheme}://" for scheme in folders)):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix="pst_jax-") as folder:
    local = pathlib.Path(folder, path.name or "bucket")
    with told(path, "read"):
      filesystem(path).get(os.fspath(path), os.fspath(local), recursive=is_folder)
    try:
      yield local
    except UserError as error:  # which names the copy
      raise type(error)(str(error).replace(os.fspath(local), os.fspath(path))) from None


def filesystem(path):
  """The fsspec file system of a path in a bucket."""
  import fsspec

  return fsspec.filesystem({"gs": "gcs"}.get(scheme := _URL.match(os.fspath(path))[1], scheme))
