"""Whether a file or folder is there: yes, no, or an error where nobody can tell.

From Python 3.14 on, `Path.exists()` and its kin say no whatever the disk said, and a run whose disk
fails for a moment would be taken for a new one.
"""

import os
import stat
from pathlib import Path

from pst_jax.buckets import is_url


def is_there(path: Path) -> bool:
  """Whether there is anything; links are followed, and raises OSError."""
  return path.exists() if is_url(path) else bool(_mode(path))


def is_file(path: Path) -> bool:
  """Whether there is a regular file; links are followed, and raises OSError."""
  return path.is_file() if is_url(path) else stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
  """Whether there is a folder; links are followed, and raises OSError."""
  return path.is_dir() if is_url(path) else stat.S_ISDIR(_mode(path))


def is_taken(path: Path) -> bool:
  """Whether the name is in use, be it by a link to nothing; raises OSError."""
  return path.exists() if is_url(path) else bool(_mode(path, follow_symlinks=False))


def _mode(path, **options):
  try:
    return os.stat(path, **options).st_mode
  except (FileNotFoundError, NotADirectoryError):
    return 0
