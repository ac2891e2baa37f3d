"""A file that a command writes for its user: checked before the work, then written in one piece."""

import contextlib
import os
from collections.abc import Iterator

from pst_jax.convert.atomic import atomic_write, check_free
from train.config import ConfigError


def check_output(path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises ConfigError if `write_output` could not write there."""
  with _explained():
    check_free(path, force=force)


def write_output(path: str | os.PathLike, content: bytes, *, force: bool = False) -> None:
  """Writes a file; with `force` also in the place of another.

  Raises:
    ConfigError: there is no such folder, the file exists, or it could not be written.
  """
  with _explained(), atomic_write(path, force=force) as file:
    file.write(content)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
  try:
    yield
  except ValueError as error:
    raise ConfigError(str(error)) from None
