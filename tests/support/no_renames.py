"""`python no_renames.py FOLDER ARGUMENTS`: as `python -m train`, but FOLDER renames no folder.

With the library of `faults.build` preloaded: every rename of a folder fails, as on a flat bucket
that is mounted with gcsfuse.
"""

import ctypes
import errno
import os
import pathlib
import sys


def forbid(folder) -> None:
  """From now on this process can rename no folder below this one."""
  from support.faults import RENAME_FOLDER

  ctypes.CDLL(None).faults_arm(os.fsencode(folder), RENAME_FOLDER, 1, errno.ENOSYS, True)


if __name__ == "__main__":
  sys.path[:1] = [str(pathlib.Path.cwd()), str(pathlib.Path(__file__).parents[1])]
  from support import shallow_networks

  from pst_jax.errors import run_command
  from train.__main__ import main

  shallow_networks.install()
  forbid(sys.argv[1])
  run_command(main, sys.argv[2:])
