"""The n-th write, read, open, rename, fsync or mkdir of a process fails, whoever calls it.

`python faults.py SCENARIO FOLDER STRIDE`, with the library of `build` preloaded, tries every
STRIDE-th n of every fault in turn and prints a line of JSON for each: what was said, and what went
wrong.
"""

import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

SOURCE = pathlib.Path(__file__).with_suffix(".c")
WRITE, READ, OPEN, RENAME, FSYNC, MKDIR, RENAME_FOLDER = (1 << bit for bit in range(7))
SHORT = 0
"""In the place of an error number: the call moves half of the bytes, as calls may."""

FAULTS = {
  "write ENOSPC": (WRITE, errno.ENOSPC, False),
  "write ENOSPC from then on": (WRITE | MKDIR, errno.ENOSPC, True),
  "write EIO": (WRITE, errno.EIO, False),
  "write short": (WRITE, SHORT, False),
  "fsync EIO": (FSYNC, errno.EIO, False),
  "rename EIO": (RENAME, errno.EIO, False),
  "rename ESTALE": (RENAME, errno.ESTALE, False),
  "mkdir ENOSPC": (MKDIR, errno.ENOSPC, False),
  "open EMFILE": (OPEN, errno.EMFILE, False),
  "open EMFILE from then on": (OPEN, errno.EMFILE, True),
  "open ESTALE": (OPEN, errno.ESTALE, False),
  "read EIO": (READ, errno.EIO, False),
  "read EIO from then on": (READ, errno.EIO, True),
  "read ESTALE": (READ, errno.ESTALE, False),
  "read short": (READ, SHORT, False),
}
MOST = 400
"""Calls of one kind; no scenario makes so many."""


class Scenario(NamedTuple):
  """Attributes:
  prepare: (folder) makes what is there before.
  act: (folder) does what faults hit; may raise UserError.
  check: (folder, what the UserError said or None) raises AssertionError for a broken promise.
  """

  prepare: Callable
  act: Callable
  check: Callable


def build(folder: pathlib.Path) -> pathlib.Path | None:
  """The library to preload; None where there is no compiler, or no Linux."""
  compiler = shutil.which("cc") or shutil.which("gcc")
  if compiler is None or not sys.platform.startswith("linux"):
    return None
  library = folder / "faults.so"
  command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
  subprocess.run(command, check=True)
  return library


def run(library, scenario: str, folder, stride: int = 1, timeout: float = 3000) -> list[dict]:
  """The results of a scenario in a process of its own, which must print nothing else."""
  done = subprocess.run(
    [sys.executable, __file__, scenario, str(folder), str(stride)],
    capture_output=True,
    text=True,
    timeout=timeout,
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {"LD_PRELOAD": str(library), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, ""), done.stderr[:3000]
  return [json.loads(line) for line in done.stdout.splitlines()]


def main(scenario: str, folder: str, stride: str) -> None:
  sys.path[:0] = [str(pathlib.Path.cwd()), str(pathlib.Path(__file__).parents[1])]
  from support.fault_scenarios import SCENARIOS

  for fault in FAULTS:
    for n in range(1, MOST, int(stride)):
      place = pathlib.Path(folder, f"{fault} {n}")
      result = _try(SCENARIOS[scenario], place, *FAULTS[fault], n)
      shutil.rmtree(place, ignore_errors=True)
      if result is None:
        break
      print(json.dumps({"fault": fault, "n": n, **result}), flush=True)


def _try(scenario: Scenario, folder: pathlib.Path, kind: int, number: int, keep: bool, n: int):
  """What came of it; None: the scenario makes fewer calls of the kind."""
  from pst_jax.errors import UserError

  faulthandler.dump_traceback_later(120, exit=True)
  scenario.prepare(folder)
  faults, said, broken = ctypes.CDLL(None), None, None
  faults.faults_arm(os.fsencode(folder), kind, n, number, keep)
  try:
    scenario.act(folder)
  except UserError as error:
    said = str(error)
  except Exception as error:
    broken = f"raised {type(error).__name__}: {error}"
  if not faults.faults_disarm():
    faulthandler.cancel_dump_traceback_later()
    return None
  if said is not None and "\n" in said:
    broken = f"more than one sentence: {said}"
  _wait_for_writers(folder)
  try:
    scenario.check(folder, said)
  except Exception as error:
    broken = broken or f"{type(error).__name__}: {error}"
  faulthandler.cancel_dump_traceback_later()
  return {"said": said, "broken": broken}


def _wait_for_writers(folder: pathlib.Path) -> None:
  """Where a save failed, threads may go on to write for a moment, as long as the process lives."""
  before = None
  while before != (now := _listing(folder)) and any(_is_begun(x) for x in now):
    before = now
    time.sleep(0.2)


def _is_begun(path: str) -> bool:
  """Whether it is part of a save that has not ended, elsewhere or in place."""
  return ".orbax-checkpoint-tmp" in path or ".unfinished" in path


def _listing(folder: pathlib.Path) -> list[str]:
  """What is there and how large; the threads may take files away while this looks."""
  found = []
  for place, folders, files in os.walk(folder):  # unlike rglob it passes over what vanishes
    for name in folders + files:
      path = os.path.join(place, name)
      with contextlib.suppress(FileNotFoundError):
        found.append(f"{path} {os.stat(path).st_mtime_ns}")
  return sorted(found)


if __name__ == "__main__":
  # Threads of Orbax wait for minutes for the parts of saves that failed: no exit waits for them.
  status = 1
  try:
    main(*sys.argv[1:])
    status = 0
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(status)
