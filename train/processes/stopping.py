"""Stopping a run: whatever asks for it sets one flag, which the loop asks for at every step.

SIGTERM, SIGINT (Ctrl-C), SIGHUP (a closed terminal) and a closed standard output (`| head`) all do
the same. Before the first step of a start there is nothing to save, and the run ends at once; later
it saves and stops after a step, the same in all processes. The same signal again ends it at once.
"""

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from pst_jax import terminal
from train.processes.watchdog import LOST, Watchdog

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_POLL_SECONDS = 1.0
_AGREE_SECONDS = 60
# Some programs pass on to a child the Ctrl-C that the terminal has sent it too.
_REPEAT_SECONDS = 1.0
_NOT_BEGUN, _ENDED = -1, 2**62
_KEY = "pst_jax/stop"


class Stopping:
  """Agrees with all processes on the step after which the run stops.

  Args:
    watch: of the same processes.
    store: JAX's key-value store, which they share; None: there is one process.

  Attributes:
    signal: that asked for it, in whichever process; None: none did.
  """

  def __init__(self, watch: Watchdog, store=None, process_id: int = 0, num_processes: int = 1):
    self._watch, self._store = watch, store
    self._process_id, self._num_processes = process_id, num_processes
    self._changed, self._asked, self._stop_at = threading.Condition(), _NOT_BEGUN, None
    self._is_agreeing = self._is_closed = False
    self._wake = threading.Event()
    self.signal = None
    self._thread = threading.Thread(target=self._poll, daemon=True)
    if store:
      self._thread.start()

  def should_stop(self, step: int) -> bool:
    """Whether all processes save and stop after this step; ask after every step, in order."""
    with self._changed:
      # Nobody may go on while the latest step of all is sought.
      self._changed.wait_for(lambda: not self._is_agreeing)
      self._asked = step
      return step == self._stop_at

  def request(self, number: int) -> None:
    """Asks all processes to stop, from any thread; `number` is the signal that does."""
    if not self._store:
      self._agree(number)
      return
    with contextlib.suppress(RuntimeError):  # another signal, or process, was first
      self._store.key_value_set(f"{_KEY}/signal", str(int(number)))
      with self._changed:
        if self.signal is None:
          self._is_agreeing = True  # steps may be short, and the thread comes to it later
    self._wake.set()

  def close(self) -> None:
    """The steps are over: who is still asked to stop goes on to the end too."""
    if self._store:
      self._is_closed = True
      self._wake.set()
      self._thread.join(_AGREE_SECONDS)
      with contextlib.suppress(RuntimeError):  # it took part in an agreement
        self._store.key_value_set(f"{_KEY}/at/{self._process_id}", str(_ENDED))

  def _poll(self) -> None:
    while not self._is_closed:
      with contextlib.suppress(RuntimeError):  # there is no such key yet
        number = int(self._store.key_value_try_get(f"{_KEY}/signal"))
        break
      self._wake.wait(_POLL_SECONDS)
    else:
      return
    try:
      self._agree(number)
    except RuntimeError as error:
      text = str(error).partition("\n")[0]
      self._watch.fail(f"the processes found no step to stop after ({text})", LOST)

  def _agree(self, number: int) -> None:
    with self._changed:
      if self.signal is not None:
        return
      self.signal, self._is_agreeing = number, True
    latest = self._latest()
    with self._changed:
      self._stop_at, self._is_agreeing = latest + 1, False
      self._changed.notify_all()
    if latest == _NOT_BEGUN:
      if self._process_id == 0:
        say("stopped before the first step; give the same command again to go on")
      self._watch.leave_together(128 + number)

  def _latest(self) -> int:
    """The latest step that any process has asked for."""
    if not self._store:
      return self._asked
    self._store.key_value_set(f"{_KEY}/at/{self._process_id}", str(self._asked))
    deadline = time.monotonic() + _AGREE_SECONDS
    while time.monotonic() < deadline:
      steps = self._store.key_value_dir_get(f"{_KEY}/at/")
      if len(steps) == self._num_processes:
        return max(int(step) for _, step in steps)
      time.sleep(_POLL_SECONDS / 10)
    raise RuntimeError(f"only {len(steps)} of {self._num_processes} answered")


@contextlib.contextmanager
def signals(
  on_first: Callable[[int], None],
  on_repeat: Callable[[int], None],
  numbers: tuple[int, ...] = SIGNALS,
) -> Iterator[None]:
  """Calls `on_first` for each kind of signal, and `on_repeat` when one comes again.

  They are called in a thread, since Python runs no handler while the main thread waits for devices
  or compiles. A signal that is ignored (`nohup`) stays so.
  """
  numbers = [each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN]
  read, write = socket.socketpair()
  write.setblocking(False)

  def run():
    came = {}
    while number := read.recv(1):
      number, now = signal.Signals(number[0]), time.monotonic()
      if number not in came:
        came[number] = now
        on_first(number)
      elif now - came[number] > _REPEAT_SECONDS:
        on_repeat(number)

  descriptor = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
  # The handlers do nothing: what matters is that Python writes the number to the socket.
  before = {each: signal.signal(each, lambda *_: None) for each in numbers}
  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(descriptor)
    write.close()
    thread.join()
    read.close()


@contextlib.contextmanager
def patient_output(on_closed: Callable[[], None]) -> Iterator[None]:
  """While it lasts, output that nobody can read any more is no error: it goes nowhere.

  `on_closed` is called when standard output closes.
  """

  def failed(error):
    if not isinstance(error, BrokenPipeError):  # a reader knows that it left
      say(f"standard output cannot be written ({error.strerror}), so that the run stops")
    on_closed()

  output = terminal.patient(sys.stdout, failed)
  errors = terminal.patient(sys.stderr, lambda error: None)
  with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
    try:
      yield
    finally:
      output.flush()


def say(text: str) -> None:
  """Prints a line on stderr from a thread, just before the process ends."""
  show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""  # the progress line hides it
  print(f"{show_cursor}{text}", file=sys.stderr, flush=True)
