"""`python phases.py PHASE FILE ARGUMENTS`: as `python -m train ARGUMENTS`, but for a short rest.

The run makes FILE when it comes to the phase, and rests there, so that a test can do something to
it meanwhile. FILE "-": it neither says so nor rests.
"""

import functools
import os
import pathlib
import sys
import time

REST_SECONDS = float(os.environ.get("REST_SECONDS", "1"))


class Rest:
  """Rests once, at the given call."""

  def __init__(self, file: str, call: int = 1):
    self._file, self._call, self._calls = file, call, 0

  def __call__(self) -> None:
    self._calls += 1
    if self._calls == self._call and self._file != "-":
      pathlib.Path(self._file).touch()
      time.sleep(REST_SECONDS)


class AtImport:
  """Rests when a module is about to be imported."""

  def __init__(self, name: str, rest: Rest):
    self._name, self._rest = name, rest

  def find_spec(self, name, path=None, target=None):
    if name == self._name:
      self._rest()


def wrap(owner, name: str, rest: Rest, *, after: bool = False) -> None:
  original = getattr(owner, name)

  @functools.wraps(original)
  def wrapped(*arguments, **options):
    if not after:
      rest()
    result = original(*arguments, **options)
    if after:
      rest()
    return result

  setattr(owner, name, wrapped)


def prepare(phase: str, file: str) -> None:
  if phase in ("early imports", "imports"):
    name = {"early imports": "tyro", "imports": "optax"}[phase]
    sys.meta_path.insert(0, AtImport(name, Rest(file)))
    return
  from train import loop
  from train.run.checkpoints import Checkpoints
  from train.run.log import RunLog
  from train.run.profiling import Profiler

  owner, name, call = {
    "restore": (Checkpoints, "restore", 1),
    "compilation": (Profiler, "run", 1),
    "step": (Profiler, "run", 3),
    "evaluation": (loop, "evaluate", 1),
    "save": (Checkpoints, "save", 1),
    "closing": (RunLog, "summary", 1),
  }[phase]
  wrap(owner, name, Rest(file, call), after=phase == "save")  # it goes on in the background


if __name__ == "__main__":
  sys.path[:1] = [str(pathlib.Path.cwd()), str(pathlib.Path(__file__).parents[1])]
  from pst_jax.errors import run_command

  def main(arguments: list[str]) -> None:
    from support import shallow_networks

    from train.__main__ import main as train

    shallow_networks.install()
    train(arguments)

  prepare(sys.argv[1].replace("_", " "), sys.argv[2])
  if "--chatty" in sys.argv:
    sys.argv.remove("--chatty")
    from train.run import log

    log._PLAIN_SECONDS = 0.0
  run_command(main, sys.argv[3:])
