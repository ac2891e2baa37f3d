"""The command line: parsers, and configs with its overrides."""

import argparse
import dataclasses
from typing import Annotated

from pst_jax.errors import refuse_empty
from train.schema import Config


def make_parser(name: str, **options) -> argparse.ArgumentParser:
  """Of the command `python -m name`; its texts keep their lines."""
  return argparse.ArgumentParser(
    prog=f"python -m {name}", formatter_class=argparse.RawDescriptionHelpFormatter, **options
  )


def split(
  parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[str, argparse.Namespace, list[str]]:
  """The config file, the command's own options, and the overrides; exits for --help."""
  if not arguments or arguments[0].startswith("-"):
    parser.parse_args(arguments or ["--help"])
    parser.error("the first argument must be a config file, such as digits")
  options, overrides = parser.parse_known_args(arguments[1:])
  refuse_empty(options)
  return arguments[0], options, overrides


def parse_run(base: Config, path: str, overrides: list[str]):
  """As `parse`, and how this process finds the others of its run: (config, Processes)."""
  import tyro

  from train.processes.join import Processes

  whole = tyro.conf.arg(name="")  # the options keep their plain names
  kind = dataclasses.make_dataclass(
    "Run",
    [("config", Annotated[type(base), whole]), ("processes", Annotated[Processes, whole])],
    frozen=True,
  )
  run = _read(kind(base, Processes()), base, path, overrides)
  return run.config, run.processes


def parse(base: Config, path: str, overrides: list[str]) -> Config:
  """The config with the command line's overrides; exits with a message for an unknown option."""
  return _read(base, base, path, overrides)


def _read(default, base, path, overrides):
  # Late, so that --help of the commands answers at once.
  import tyro

  return tyro.cli(
    type(default),
    default=default,
    args=overrides,
    prog=f"python -m train {path}",
    description=f"Train {base.model.name} on {base.data.dataset}.",
  )
