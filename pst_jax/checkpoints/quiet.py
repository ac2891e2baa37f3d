"""Keeps the terminal free of what Orbax and TensorStore print of an error beside raising it.

A save or a read that fails leaves its other parts to threads and to the garbage collector, each of
which prints a traceback of its own, hundreds in all, although the error itself was raised, caught
and told in one sentence.
"""

import atexit
import contextlib
import logging
import os
import sys
import warnings

from pst_jax.errors import abandon_threads

_ORBAX = f"{os.sep}orbax{os.sep}"


def install() -> None:
  """Drops these reports, and nothing else, for the rest of the process; as often as one likes."""
  for name, is_kept in (("absl", _is_no_report_of_orbax), ("asyncio", _was_retrieved)):
    logger = logging.getLogger(name)
    if is_kept not in logger.filters:
      logger.addFilter(is_kept)
  if sys.unraisablehook is not _unraisablehook:
    _unraisablehook.before = sys.unraisablehook
    sys.unraisablehook = _unraisablehook


def after_failure() -> None:
  """Also drops Python's warnings of coroutines that a failed save or read never came to.

  They are given whenever these are collected, up to the end of the process, which does not wait for
  the threads of what failed.
  """
  abandon_threads()
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
  atexit.unregister(_end_quietly)
  atexit.register(_end_quietly)


def _end_quietly() -> None:
  """At its end Python takes the hook below away before the last reads of a failed one are gone.

  All that is to be said has been said by then, also the traceback of an error that nobody caught.
  """
  with contextlib.suppress(OSError, ValueError, AttributeError):
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stderr__.fileno())


def _is_no_report_of_orbax(record: logging.LogRecord) -> bool:
  return _ORBAX not in record.pathname or logging.getLogger("absl").isEnabledFor(logging.INFO)


def _was_retrieved(record: logging.LogRecord) -> bool:
  """False for "Future exception was never retrieved", which asyncio logs at a future's end."""
  return "never retrieved" not in str(record.msg)


def _unraisablehook(unraisable) -> None:
  """Called for each write or read of TensorStore that ends after another one has failed."""
  code = getattr(unraisable.object, "cr_code", None)
  of_orbax = code is not None and _ORBAX in code.co_filename
  if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
    _unraisablehook.before(unraisable)
