"""A lock between processes by an object in a bucket of gs://, kept by signs of life.

No store drops a lock with the process that holds it. So the holder changes the object's metadata
every few seconds, and whoever finds it unchanged for long takes it for left behind. All changes
have the object's generation as their precondition, which no two processes can win.
"""

import contextlib
import itertools
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from pst_jax.buckets import filesystem, os_error
from pst_jax.errors import UserError

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""A lock without a sign of life for so long is left behind."""


@contextlib.contextmanager
def lease(path, *, unwritable: str, busy: str) -> Iterator[Callable[[], None]]:
  """Holds an object as a lock; arguments and errors as `files.lock`.

  Yields:
    a function that raises UserError where the lock was lost to another process.
  """
  held = _Lease(path, busy)
  try:
    held.acquire()
  except OSError as error:
    raise UserError(unwritable.replace("{reason}", str(os_error(error).strerror))) from error
  thread = threading.Thread(target=held.keep, daemon=True)
  thread.start()
  try:
    yield held.require
  finally:
    held.ended.set()
    thread.join(BEAT_SECONDS)
    with contextlib.suppress(OSError):
      held.release()


class _Lease:
  def __init__(self, path, busy: str):
    self._path, self._busy = path, busy
    self._files = filesystem(path)
    self._bucket, self._key, _ = self._files.split_path(os.fspath(path))
    self.ended = threading.Event()
    self._beats, self._shown = itertools.count(1), 0.0
    self._lost = False

  def acquire(self) -> None:
    """Makes the object, in the place of one that was left behind if need be."""
    text = json.dumps({"token": secrets.token_hex(16), **_holder()})
    while not self._create(text):
      self._wait_until_left()

  def _create(self, text: str) -> bool:
    place = os.fspath(self._path)
    try:
      self._files.pipe_file(place, text.encode(), mode="create")
    except FileExistsError:
      # A request that is sent again after a lost answer finds its own object.
      with contextlib.suppress(FileNotFoundError):
        if self._files.cat_file(place) == text.encode():
          return self._take()
      return False
    return self._take()

  def _take(self) -> bool:
    info = self._files.info(os.fspath(self._path))
    self._generation, self._shown = info["generation"], time.time()
    return True

  def _wait_until_left(self) -> None:
    """Deletes the object of another process that is gone; UserError if it shows life."""
    deadline, first = time.monotonic() + LEASE_SECONDS, self._sign_of_life()
    while first is not None:
      alive = self._is_alive()
      if alive:
        raise UserError(self._busy)
      if alive is False:
        break
      if time.monotonic() >= deadline:
        break
      time.sleep(1)
      if (now := self._sign_of_life()) != first:
        if now is None:
          return
        raise UserError(self._busy)
    if first is not None:
      with contextlib.suppress(FileNotFoundError, FileExistsError):
        self._delete(first[0])

  def _is_alive(self) -> bool | None:
    """Whether the holder lives; None: it is on another machine, where nobody can tell."""
    try:
      holder = json.loads(self._files.cat_file(os.fspath(self._path)))
      here = holder["host"], holder["boot"], holder["pids"]
      began = holder["began"], _began(holder["pid"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
      return None
    is_here = here == (socket.gethostname(), _boot(), _pids()) and None not in (*here, began[0])
    return began[0] == began[1] if is_here else None

  def _sign_of_life(self) -> tuple | None:
    try:
      info = self._files.info(os.fspath(self._path))
    except FileNotFoundError:
      return None
    return info["generation"], (info.get("metadata") or {}).get("beat")

  def keep(self) -> None:
    """Shows life until `ended` is set, or the lock is lost."""
    while not self._lost and not self.ended.wait(BEAT_SECONDS):
      with contextlib.suppress(OSError):  # the store may answer before anyone takes the lock
        self._beat()

  def _beat(self) -> None:
    """Shows life once, and so learns whether the lock is lost."""
    began = time.time()
    try:
      found = self._files.call(
        "PATCH",
        "b/{}/o/{}",
        self._bucket,
        self._key,
        ifGenerationMatch=self._generation,
        json={"metadata": {"beat": str(next(self._beats))}},
        json_out=True,
      )
      self._lost |= found["generation"] != self._generation
    except (FileNotFoundError, FileExistsError):  # deleted, or another one's
      self._lost = True
    self._shown = began

  def require(self) -> None:
    # The clock of the day, which goes on while a machine sleeps; it may also be set back.
    if not self._lost and not 0 <= time.time() - self._shown < LEASE_SECONDS / 2:
      try:
        self._beat()
      except OSError as error:
        raise UserError(
          f"{self._path}: whether this process still holds the lock cannot be asked "
          f"({os_error(error).strerror}), so nothing more is saved here; give the same command "
          "again to go on"
        ) from error
    if self._lost:
      raise UserError(
        f"{self._path} was taken by another process, which took this one for dead, as it gave no "
        f"sign of life for {LEASE_SECONDS:.0f} s: nothing more is saved here; stop one of the two, "
        "then give the same command again to go on"
      )

  def release(self) -> None:
    if not self._lost:
      self._delete(self._generation)

  def _delete(self, generation: str) -> None:
    self._files.call("DELETE", "b/{}/o/{}", self._bucket, self._key, ifGenerationMatch=generation)


def _holder() -> dict:
  """What this process is known by on this machine."""
  return {
    "host": socket.gethostname(),
    "boot": _boot(),
    "pids": _pids(),
    "pid": os.getpid(),
    "began": _began(),
  }


def _boot() -> str | None:
  with contextlib.suppress(OSError):
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  return None


def _pids() -> str | None:
  """The namespace of the process ids: containers of one machine and name count from 1 each."""
  with contextlib.suppress(OSError):
    return os.readlink("/proc/self/ns/pid")
  return None


def _began(pid: int | str = "self") -> str | None:
  """When a process of this machine began, in ticks since the machine did; None: there is none."""
  with contextlib.suppress(OSError, IndexError):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
  return None
