"""What the command lines of the trainer share."""

import sys
from collections.abc import Callable

from train.config import ConfigError


def run_command(main: Callable[[list[str]], None], arguments: list[str]) -> None:
  """Runs a command; a user's mistake becomes one line on stderr and exit code 2, no traceback."""
  try:
    main(arguments)
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("stopped; give the same command again to go on", file=sys.stderr)
    sys.exit(130)
