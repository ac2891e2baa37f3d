"""Folders that are replaced as a whole."""

import ctypes
import os
import shutil
from pathlib import Path

from pst_jax.files import sync_folder
from pst_jax.presence import is_folder, is_taken, is_there


def replace_folder(temporary: Path, target: Path) -> None:
  """Gives a finished folder its name; a folder that has the name is deleted.

  On Linux the two change names in one step, so that a process that is killed leaves the old folder
  or the new one under the name. Elsewhere, and on file systems that cannot do this, the old folder
  is for a moment called `.NAME.pst_jax-old`, which `recover_folder` brings back.

  Raises:
    OSError: it could not be renamed; `target` is as it was.
  """
  aside = _aside(target)
  if not is_there(target):
    temporary.rename(target)
  elif _exchange(temporary, target):
    temporary.rename(aside)
  else:
    target.rename(aside)
    try:
      temporary.rename(target)
    except OSError:
      aside.rename(target)
      raise
  sync_folder(target.parent)
  shutil.rmtree(aside, ignore_errors=True)


def recover_folder(target: Path) -> None:
  """Brings back, or deletes, what a process left that was killed in `replace_folder`."""
  aside = _aside(target) if target.name else None
  if aside is None or not is_folder(aside):
    return
  if is_taken(target):
    shutil.rmtree(aside, ignore_errors=True)
  else:
    aside.rename(target)


def _aside(target: Path) -> Path:
  return target.with_name(f".{target.name}.pst_jax-old")


def _exchange(one: Path, two: Path) -> bool:
  """Lets two paths change names in one step; False where the system cannot."""
  here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
  rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
  return rename is not None and not rename(here, os.fsencode(one), here, os.fsencode(two), exchange)
