"""What a command owes the terminal: readers that leave, closed outputs, Ctrl-C at any time."""

import contextlib
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


def _complain(error: OSError) -> None:
  if not isinstance(error, BrokenPipeError):
    raise OSError(error.errno, error.strerror, "standard output") from None


class _Pipe(io.FileIO):
  """A stream that goes nowhere once it could not be written, and then calls `on_failure`."""

  _is_broken = False
  on_failure: Callable[[OSError], None]

  def write(self, data) -> int:
    if not self._is_broken:
      try:
        return super().write(data)
      except OSError as error:
        self._is_broken = True  # Python tries again at its exit, and would complain again.
        self.on_failure(error)
    return len(data)


@contextlib.contextmanager
def command_line(interrupted: str = "") -> Iterator[None]:
  """Inside, a command may print and be interrupted in peace.

  A reader that leaves is no error: the command goes on, as it may have files to write. A closed
  standard output is no error either, nor a character that the terminal's encoding lacks. A Ctrl-C
  that Python would drop, because it comes inside a callback, or that would end in other tracebacks,
  because it comes while modules are imported, ends the process.

  Args:
    interrupted: a sentence that is printed then.
  """
  before, sys.unraisablehook = sys.unraisablehook, _end_if_interrupted
  handler = signal.getsignal(signal.SIGINT)
  replaces = handler is signal.default_int_handler  # and not ignored, as by nohup
  if replaces:
    signal.signal(signal.SIGINT, functools.partial(_interrupt, interrupted))
  stdout = sys.stdout
  try:
    with contextlib.redirect_stdout(patient(stdout)):
      yield
      sys.stdout.flush()
  finally:
    if sys.unraisablehook is _end_if_interrupted:  # and not what was put before it meanwhile
      sys.unraisablehook = before
    if replaces:
      signal.signal(signal.SIGINT, handler)


def _interrupt(text: str, number: int, frame) -> None:
  while frame:
    if frame.f_code.co_filename.startswith("<frozen importlib"):
      print(text, end="\n" if text else "", file=sys.stderr, flush=True)
      os._exit(128 + number)  # nothing is half done yet
    frame = frame.f_back
  raise KeyboardInterrupt


def patient(stream: TextIO | None, on_failure: Callable[[OSError], None] = _complain) -> TextIO:
  """The stream, but that `on_failure` is called, once, where writing to it would be an error.

  By default a reader that has left, such as `head`, is no error.
  """
  if stream is None:  # `>&-`
    return open(os.devnull, "w")
  try:
    descriptor = stream.fileno()
  except (AttributeError, OSError):  # not a file: a program that collects what is printed
    return stream
  stream.flush()
  pipe, at_once = _Pipe(descriptor, "wb", closefd=False), stream.write_through  # python -u
  pipe.on_failure = on_failure
  return io.TextIOWrapper(
    pipe if at_once else io.BufferedWriter(pipe),
    stream.encoding,
    "backslashreplace",
    line_buffering=stream.line_buffering,
    write_through=at_once,
  )


def _end_if_interrupted(unraisable) -> None:
  if issubclass(unraisable.exc_type, KeyboardInterrupt):
    os._exit(128 + signal.SIGINT)
  sys.__unraisablehook__(unraisable)
