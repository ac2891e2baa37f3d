"""python -m train CONFIG [overrides]: trains, or resumes, the run that a config file describes."""

import dataclasses
import pathlib
import sys
from typing import Annotated

from train.command import run_command

USAGE = """\
usage: python -m train CONFIG [--option value ...]

Trains the network that a config file describes. The run folder (--run-dir) keeps the resolved
config, checkpoints and metrics; the same command again resumes from the newest checkpoint.

  python -m train configs/digits.py                             a first network, in minutes
  python -m train configs/digits.py --help                      every option and its value
  python -m train configs/digits.py --run-dir runs/mine --optim.learning-rate 0.05

SIGTERM saves and stops; the same command goes on. Exit codes: 0 the end of the run, 143 stopped by
SIGTERM, 2 a mistake in the config or the data, 1 anything else.

configs:
{configs}
"""


def main(arguments: list[str]) -> None:
  if not arguments or arguments[0] in ("-h", "--help"):
    files = sorted(pathlib.Path("configs").glob("*.py"))
    lines = [f"  {file.as_posix():36s} {_title(file)}" for file in files]
    print(USAGE.format(configs="\n".join(lines)))
    return
  from train import config as schema

  base = schema.load_file(arguments[0])
  config, processes = parse_run(base, arguments[0], arguments[1:])
  from train.distributed import joined

  with joined(processes) as should_stop:
    from train.loop import train

    train(config, should_stop)


def _title(file: pathlib.Path) -> str:
  """The first line of a config's description."""
  line = file.read_text().partition("\n")[0]
  return line.removeprefix('"""') if line.startswith('"""') else ""


def parse_run(base, path: str, overrides: list[str]):
  """As `parse`, and how this process finds the others of its run: (config, Processes)."""
  import tyro

  from train.distributed import Processes

  whole = tyro.conf.arg(name="")  # the options keep their plain names
  kind = dataclasses.make_dataclass(
    "Run",
    [("config", Annotated[type(base), whole]), ("processes", Annotated[Processes, whole])],
    frozen=True,
  )
  run = _read(kind, kind(base, Processes()), base, path, overrides)
  return run.config, run.processes


def parse(base, path: str, overrides: list[str]):
  """The config with the command line's overrides; exits with a message for an unknown option."""
  return _read(type(base), base, base, path, overrides)


def _read(kind, default, base, path, overrides):
  import tyro

  return tyro.cli(
    kind,
    default=default,
    args=overrides,
    prog=f"python -m train {path}",
    description=f"Train {base.model.name} on {base.data.dataset}.",
  )


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
