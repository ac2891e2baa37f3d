"""Errors that a user can correct, and how every command of the library and the trainer ends."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from pst_jax import terminal

INTERRUPTED = "stopped; give the same command again to go on"


class UserError(ValueError):
  """Something that the user can correct; one sentence: what was given or happened, what to do."""


class ImageError(ValueError):
  """Bytes that are no image, or an image that is damaged, cut short or too large."""


class MissingFileError(UserError, FileNotFoundError):
  """A file or folder that the user named does not exist."""


class Stopped(Exception):
  """The run was told to stop, and has saved its state.

  The text says where, in process 0; it is empty in the others.

  Attributes:
    signal: the signal that told it.
  """

  signal = signal.SIGTERM


def refuse_empty(options: argparse.Namespace) -> None:
  """Raises UserError for an option that was given an empty text, such as `--json ''`.

  A shell makes it of a variable that is not set; as a path it would be the current folder.
  """
  for name, value in vars(options).items():
    if "" in (value if isinstance(value, list) else [value]):
      raise UserError(f"{name.replace('_', '-')} is an empty text: give a value, or leave it out")


def run_command(main: Callable[[list[str]], None], arguments: list[str]) -> None:
  """Runs a command and returns at its end, or exits with the code that `report` gives.

  A user's mistake, and a file that cannot be read or written, become one line on stderr. Every
  other error keeps its traceback: it is a bug.
  """
  _abandoned.clear()  # whatever went before in this process, of which it may not be the first
  try:
    with terminal.command_line(INTERRUPTED):
      main(arguments)
  except (UserError, OSError, KeyboardInterrupt, Stopped) as error:
    code = report(error)
    if _abandoned.is_set():
      for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None: it was closed
          stream.flush()
      os._exit(code)
    sys.exit(code)


_abandoned = threading.Event()


def abandon_threads() -> None:
  """A command that ends with an error from now on does not wait for threads.

  Those of a save that failed may wait for minutes for parts of it that cannot come.
  """
  _abandoned.set()


def report(error: BaseException) -> int:
  """Prints why a command ends, on stderr, and returns the exit code for it.

  2: a user's mistake, or a file that cannot be used; 130: Ctrl-C; 128 + the signal: stopped by it,
  the run is saved (SIGTERM: 143); 1: anything else.
  """
  if isinstance(error, UserError) or _is_of_a_file(error):
    _say(f"error: {describe(error)}")
    return 2
  if isinstance(error, KeyboardInterrupt):
    _say(INTERRUPTED)
    return 130
  if isinstance(error, Stopped):
    if str(error):
      _say(str(error))
    return 128 + error.signal
  traceback.print_exception(error)
  return 1


def _say(text: str) -> None:
  with contextlib.suppress(OSError):  # the terminal may be what has gone
    print(text, file=sys.stderr)


def describe(error: BaseException) -> str:
  """The error in one sentence, for the user or for the other processes of a run."""
  if isinstance(error, UserError):
    return str(error)
  if _is_of_a_file(error):
    where = "the output" if error.filename is None else error.filename
    return f"{where}: {error.strerror}; check the path, the permissions and the disk"
  if isinstance(error, KeyboardInterrupt):
    return "it was interrupted; give the same command again to go on"
  return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}".rstrip(": ")


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def _is_of_a_file(error: BaseException) -> bool:
  """Whether the system refused a file by its name, or its disk is full; no connection or pipe."""
  is_refused = isinstance(error, OSError) and bool(error.strerror)
  return is_refused and (error.filename is not None or error.errno in _DISK)
