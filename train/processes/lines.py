"""TCP lines between process 0 and the others of a run, which no stranger can join or block.

Process 0 listens only until all others have come, and only on the address by which they reach
JAX's coordinator. Who comes must first send a secret of fixed length, from JAX's key-value store;
of those that have not sent it all, only some are kept waiting, with a few bytes each.
"""

import contextlib
import hmac
import secrets
import selectors
import socket
import time
from multiprocessing.connection import Connection

CONNECT_SECONDS = 30
MAX_STRANGERS = 64

_ADDRESS, _SECRET = "pst_jax/lines/address", "pst_jax/lines/secret"
_SECRET_BYTES, _ID_BYTES = 32, 4
_GREETING_BYTES = _SECRET_BYTES + _ID_BYTES


def open_lines(
  store, coordinator: str, process_id: int, num_processes: int
) -> dict[int, Connection]:
  """The lines of this process by the process at their other end; all processes call it.

  Args:
    store: JAX's key-value store, which all processes share (`DistributedRuntimeClient`).
    coordinator: HOST:PORT where JAX's coordination service listens in process 0.

  Raises:
    OSError, RuntimeError: the lines cannot be opened within `CONNECT_SECONDS`.
  """
  if num_processes == 1:
    return {}
  if process_id == num_processes - 1:
    # Not process 0 itself: on its own machine its name may stand for a loopback address.
    store.key_value_set(_ADDRESS, _address_of(coordinator))
  address = store.blocking_key_value_get(_ADDRESS, CONNECT_SECONDS * 1000)
  if process_id == 0:
    return _serve(store, address, num_processes)
  port, secret = store.blocking_key_value_get(_SECRET, CONNECT_SECONDS * 1000).split()
  end = socket.create_connection((address, int(port)), CONNECT_SECONDS)
  end.sendall(bytes.fromhex(secret) + process_id.to_bytes(_ID_BYTES, "big"))
  return {0: _line(end)}


def _address_of(coordinator: str) -> str:
  """The address behind a name, which may have several, at which the coordinator answers."""
  host, _, port = coordinator.rpartition(":")
  with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as probe:
    return probe.getpeername()[0]


def _serve(store, address: str, num_processes: int) -> dict[int, Connection]:
  family = socket.AF_INET6 if ":" in address else socket.AF_INET
  with socket.create_server((address, 0), family=family, backlog=num_processes + 16) as server:
    secret = secrets.token_bytes(_SECRET_BYTES)
    store.key_value_set(_SECRET, f"{server.getsockname()[1]} {secret.hex()}")
    ends = _accept(server, secret, num_processes - 1)
  return {process: _line(end) for process, end in ends.items()}


def _accept(server: socket.socket, secret: bytes, count: int) -> dict[int, socket.socket]:
  """The ends of `count` processes, as far as they come in time, by process."""
  deadline = time.monotonic() + CONNECT_SECONDS
  ends, greetings = {}, {}  # greetings: what a stranger has sent so far, oldest first
  server.setblocking(False)
  with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
    selector.register(server, selectors.EVENT_READ)

    def forget(stranger):
      del greetings[stranger]
      selector.unregister(stranger)

    while len(ends) < count and (left := deadline - time.monotonic()) > 0:
      for key, _ in selector.select(left):
        if key.fileobj is server:
          with contextlib.suppress(OSError):  # gone already
            stranger = server.accept()[0]
            stranger.setblocking(False)
            greetings[stack.enter_context(stranger)] = b""
            selector.register(stranger, selectors.EVENT_READ)
          if len(greetings) > MAX_STRANGERS + count:
            oldest = next(iter(greetings))
            forget(oldest)
            oldest.close()
          continue
        if (stranger := key.fileobj) not in greetings:
          continue
        said = b""
        with contextlib.suppress(OSError):
          said = stranger.recv(_GREETING_BYTES - len(greetings[stranger]))
        greeting = greetings[stranger] + said
        if said and len(greeting) < _GREETING_BYTES:
          greetings[stranger] = greeting
          continue
        forget(stranger)
        if hmac.compare_digest(greeting[:_SECRET_BYTES], secret):
          ends[int.from_bytes(greeting[_SECRET_BYTES:], "big")] = stranger.dup()
        stranger.close()
  return ends


def _line(end: socket.socket) -> Connection:
  end.setblocking(True)
  return Connection(end.detach())
