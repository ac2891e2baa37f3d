"""What the command lines of the trainer share: how they end."""

import signal
import sys
import traceback
from collections.abc import Callable

from train.config import ConfigError


class Stopped(Exception):
  """The run was told to stop (SIGTERM), and has saved its state.

  The text says where, in process 0; it is empty in the others.
  """


def run_command(main: Callable[[list[str]], None], arguments: list[str]) -> None:
  """Runs a command; a user's mistake becomes one line on stderr and exit code 2, no traceback."""
  try:
    main(arguments)
  except (ConfigError, KeyboardInterrupt, Stopped) as error:
    sys.exit(report(error))


def report(error: BaseException) -> int:
  """Prints why a command ends, on stderr, and returns the exit code for it.

  2: a user's mistake; 130: Ctrl-C; 143: SIGTERM, the run is saved; 1: anything else.
  """
  if isinstance(error, ConfigError):
    print(f"error: {error}", file=sys.stderr)
    return 2
  if isinstance(error, KeyboardInterrupt):
    print("stopped; give the same command again to go on", file=sys.stderr)
    return 130
  if isinstance(error, Stopped):
    if str(error):
      print(error, file=sys.stderr)
    return 128 + signal.SIGTERM
  traceback.print_exception(error)
  return 1


def describe(error: BaseException) -> str:
  """The error in one sentence, for the other processes of a run."""
  if isinstance(error, ConfigError):
    return str(error)
  if isinstance(error, KeyboardInterrupt):
    return "it was interrupted; give the same command again to go on"
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}".rstrip(": ")
