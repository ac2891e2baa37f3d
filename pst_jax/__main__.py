"""pst_jax COMMAND, or python -m pst_jax COMMAND: the library from the command line."""

# A command imports what it needs when it runs: --help answers at once.
import importlib
import signal
import sys

from pst_jax import terminal
from pst_jax.errors import UserError, refuse_empty, report

# name, which is also that of the module in `pst_jax.commands`: what it does
COMMANDS = {
  "models": "list the networks and what they cost",
  "convert": "turn weights into another form",
  "export": "turn a network into a file to deploy",
  "inspect": "show what a file of weights holds",
  "predict": "name what is on images",
  "benchmark": "measure what the fine branch costs",
  "push": "share weights on the Hugging Face hub",
}


def parse(arguments: list[str]):
  """The options of a command line, with the function to call as `run`; exits for --help."""
  import argparse

  import pst_jax

  parser = argparse.ArgumentParser(
    prog="pst_jax", description="Pyramid Sparse Transformer for JAX."
  )
  parser.add_argument("-V", "--version", action="version", version=f"pst_jax {pst_jax.__version__}")
  subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
  for name, summary in COMMANDS.items():
    subparser = subparsers.add_parser(name, help=summary)
    if name in arguments:
      command = importlib.import_module(f"pst_jax.commands.{name}")
      subparser.description = command.DESCRIPTION
      subparser.formatter_class = argparse.RawDescriptionHelpFormatter
      command.add_arguments(subparser)
      subparser.set_defaults(run=command.run)
  return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
  """Runs one command and returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
  try:
    with terminal.command_line():
      options = parse(arguments)
      refuse_empty(options)
      options.run(options)
  except (UserError, OSError) as error:
    return report(error)
  except KeyboardInterrupt:
    return 128 + signal.SIGINT
  return 0


def entry() -> None:
  """The console script `pst_jax`."""
  # A polite kill cleans up as Ctrl-C does: no temporary file stays.
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
  entry()
