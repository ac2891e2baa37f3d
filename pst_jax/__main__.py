"""python -m pst_jax COMMAND: the library from the command line."""

import argparse
import os
import sys

from pst_jax.commands import convert, export, inspect, models, predict

# name: (what it does, function that adds its arguments, function that runs it)
COMMANDS = {
  "models": ("list the networks and what they cost", models.add_arguments, models.run),
  "convert": ("turn weights into another form", convert.add_arguments, convert.run),
  "export": ("turn a network into StableHLO to deploy it", export.add_arguments, export.run),
  "inspect": ("show what a file of weights holds", inspect.add_arguments, inspect.run),
  "predict": ("name what is on images", predict.add_arguments, predict.run),
}


def parse(arguments: list[str]) -> argparse.Namespace:
  """The options of a command line, with the function to call as `run`; exits for --help."""
  parser = argparse.ArgumentParser(
    prog="python -m pst_jax", description="Pyramid Sparse Transformer for JAX."
  )
  subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
  for name, (summary, add_arguments, run) in COMMANDS.items():
    subparser = subparsers.add_parser(name, help=summary)
    add_arguments(subparser)
    subparser.set_defaults(run=run)
  return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
  """Runs one command and returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
  options = parse(arguments)
  try:
    options.run(options)
    sys.stdout.flush()
  except BrokenPipeError:
    # The reader, such as `head`, has seen enough; Python would complain once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
