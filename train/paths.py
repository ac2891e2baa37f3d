"""Folders that a user names."""

import os
import pathlib
import re

from train.config import ConfigError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local_folder(path: str | os.PathLike, option: str) -> pathlib.Path:
  """The path of a folder on a disk, also a mounted one.

  Args:
    path: as the user gave it; `~` is the home folder.
    option: what it was given for, for the error.

  Raises:
    ConfigError: it is the URL of a bucket. As a path it would be a new local folder called `gs:`.
  """
  if _URL.match(str(path)):
    raise ConfigError(
      f"{option} is {path}, but buckets are not read directly: mount it (gcsfuse, mount-s3) and"
      " give the mounted folder, or copy it to a local disk"
    )
  return pathlib.Path(path).expanduser()
