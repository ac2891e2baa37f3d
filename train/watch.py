"""The processes of a run watch each other: when one fails or dies, all stop at once and say why.

JAX's heartbeat notices a lost process only after its timeout, and then aborts the others with a
stack trace; until then their collectives hang. So every process keeps a TCP line to process 0. When
a process is killed, the system closes its line, which is noticed at once; when it fails, its error
goes to all others over the line. A machine that vanishes closes nothing: that is left to JAX.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_KEY = "train/watch"
_CONNECT_SECONDS = 30
# How long a process that fails waits for the others to have read why.
_LINGER_SECONDS = 3.0
LOST = 1
"""Exit code when another process was lost."""

_log = logging.getLogger(__name__)


class Watch:
  """One process's end of the lines; in process 0 the end of all lines.

  Args:
    store: JAX's key-value store, which all processes share (`DistributedRuntimeClient`).
    host: where the others reach process 0.
    process_id: of this process.
    num_processes: of the run.
    leave: what ends this process, given an exit code, from a thread that is not the main one.
  """

  def __init__(
    self,
    store: Any,
    host: str,
    process_id: int,
    num_processes: int,
    leave: Callable[[int], None] = os._exit,
  ):
    self._process_id, self._num_processes, self._leave = process_id, num_processes, leave
    self._ends: dict[int, socket.socket] = {}
    self._listeners: list[threading.Thread] = []
    self._lock, self._parting = threading.Lock(), False
    self._arrived = threading.Semaphore(0)
    if process_id == 0:
      self._serve(store)
    else:
      self._connect(store, host)

  def announce(self, error: str, code: int) -> None:
    """Tells all other processes why this one fails; they stop with the same exit code."""
    with self._lock:
      if self._parting:
        return
      self._parting = True
    self._send({"process": self._process_id, "error": error, "code": code})
    deadline = time.monotonic() + _LINGER_SECONDS
    for listener in self._listeners:
      listener.join(max(0.0, deadline - time.monotonic()))

  def part(self) -> None:
    """Ends the lines of a run that ended well; after every process came to its end."""
    with self._lock:
      self._parting = True
    self._send({"process": self._process_id, "bye": True})

  def _serve(self, store) -> None:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
    token = secrets.token_hex(16)

    def accept():
      while True:
        end, _ = server.accept()
        self._start(self._greet, end, token)

    threading.Thread(target=accept, daemon=True).start()
    store.key_value_set(_KEY, f"{server.getsockname()[1]} {token}")
    # Before all lines are there nobody goes on: an error would not reach everybody.
    deadline = time.monotonic() + _CONNECT_SECONDS
    for _ in range(self._num_processes - 1):
      self._arrived.acquire(timeout=max(0.0, deadline - time.monotonic()))
    self._send({"ready": True})

  def _greet(self, end, token) -> None:
    lines = end.makefile()
    with contextlib.suppress(ValueError, OSError):
      said, process = lines.readline().split()
      if said == token:  # and no stranger that tries every port
        self._ends[int(process)] = end
        self._arrived.release()
        self._listen(lines, int(process))
    end.close()

  def _connect(self, store, host) -> None:
    try:
      port, token = store.blocking_key_value_get(_KEY, _CONNECT_SECONDS * 1000).split()
      end = socket.create_connection((host, int(port)), _CONNECT_SECONDS)
      end.settimeout(None)
      end.sendall(f"{token} {self._process_id}\n".encode())
    except (OSError, RuntimeError) as error:
      _log.warning(
        "process %d cannot open a line to process 0 (%s): the loss of a process will be noticed "
        "after the heartbeat's timeout only",
        self._process_id,
        error,
      )
      return
    self._ends[0] = end
    lines = end.makefile()
    lines.readline()  # "ready"
    self._start(self._listen, lines, 0)

  def _start(self, target, *arguments) -> None:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    self._listeners.append(thread)
    thread.start()

  def _listen(self, lines, process: int) -> None:
    """Until the other end says goodbye, fails or is lost."""
    message = {"process": process, "error": None, "code": LOST}
    with contextlib.suppress(OSError, ValueError):
      message = json.loads(next(lines, json.dumps(message)))
    if "bye" not in message:
      self._stop(message)

  def _stop(self, message: dict) -> None:
    with self._lock:
      if self._parting:
        return
      self._parting = True
    self._send(message)  # from process 0 to all, from the others back to process 0
    print(f"error: {self._sentence(message)}", file=sys.stderr, flush=True)
    self._leave(message["code"])

  def _sentence(self, message) -> str:
    who = f"process {message['process']} of {self._num_processes}"
    if message["error"] is not None:
      return f"{who} stopped: {message['error']}"
    return (
      f"{who} has ended without a word, killed or with its machine: give the same command to all "
      "processes again to go on from the last checkpoint"
    )

  def _send(self, message) -> None:
    line = (json.dumps(message) + "\n").encode()
    for end in list(self._ends.values()):
      with contextlib.suppress(OSError):
        end.sendall(line)
