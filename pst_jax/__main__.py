"""python -m pst_jax COMMAND: the library from the command line."""

import argparse
import contextlib
import io
import os
import signal
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


_FILES = ("dest", "csv", "json", "topk_overlay")
"""Options that name a file to write."""


class _PatientOutput(io.TextIOBase):
  """Standard output that goes nowhere once its reader, such as `head`, has left."""

  def __init__(self, stream):
    self._stream = stream

  def write(self, text: str) -> int:
    with _without_reader(self._stream):
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with _without_reader(self._stream):
      self._stream.flush()


@contextlib.contextmanager
def _without_reader(stream):
  """A reader that leaves ends what is done inside, and is no error, nor at Python's exit."""
  try:
    yield
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(arguments: list[str]) -> int:
  """Runs one command and returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
  options = parse(arguments)
  # Whoever asked for a file gets it, also behind `| head -1`; else there is nothing left to do.
  writes = any(getattr(options, name, None) for name in _FILES)
  output = _PatientOutput(sys.stdout) if writes else sys.stdout
  try:
    with _without_reader(output), contextlib.redirect_stdout(output):
      options.run(options)
      sys.stdout.flush()
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130
  return 0


if __name__ == "__main__":
  # A polite kill cleans up as Ctrl-C does: no temporary file stays.
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  sys.exit(main(sys.argv[1:]))
