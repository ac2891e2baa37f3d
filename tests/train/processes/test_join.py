"""Joining the processes of a run: options, and the lines between them."""

import argparse
import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from pst_jax.errors import UserError
from train.processes import join, lines
from train.processes.join import Processes, add_options, from_options, init_processes
from train.processes.lines import open_lines
from train.processes.watchdog import LOST, Watchdog

# Options


@pytest.mark.parametrize(
  ("processes", "message"),
  [
    (Processes(process_id=1), "give --coordinator and --num-processes too"),
    (Processes("host:1234", 2), "--process-id in each of them: give --process-id too"),
    (Processes("host:1234", 2, 2), "--process-id is 2, .* must be a number from 0 to 1"),
    (Processes("host:1234", 2, -1), "--process-id is -1"),
    (Processes("host:1234", 0, 0), "--num-processes is 0, but it must be 1 or more"),
    (Processes("host", 2, 0), "--coordinator is 'host', but it must be HOST:PORT"),
    (Processes("host:99999", 2, 0), "--coordinator is 'host:99999'"),
    (Processes(heartbeat_timeout=0), "--heartbeat-timeout is 0, but it must be 1 or more"),
    (Processes(stall_minutes=0), "--stall-minutes is 0, but it must be 0.01 or more"),
    (Processes(stall_minutes=1e-320), "--stall-minutes is 1e-320, but it must be 0.01 or more"),
  ],
)
def test_options_that_do_not_fit_are_refused_before_anything_waits(processes, message):
  with pytest.raises(UserError, match=message), init_processes(processes):
    pass


def test_commands_with_argparse_have_the_same_options():
  parser = argparse.ArgumentParser()
  add_options(parser)
  given = "--coordinator host:1 --num-processes 4 --process-id 3 --heartbeat-timeout 20"
  assert from_options(parser.parse_args(given.split())) == Processes("host:1", 4, 3, 20)
  assert from_options(parser.parse_args([])) == Processes()


# The lines between the processes


class Store:
  """JAX's key-value store, as far as it is used."""

  def __init__(self):
    self.values, self.changed = {}, threading.Condition()

  def key_value_set(self, key, value):
    with self.changed:
      self.values[key] = value
      self.changed.notify_all()

  def blocking_key_value_get(self, key, timeout_in_ms):
    with self.changed:
      assert self.changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000)
      return self.values[key]


class Three:
  """Three ends in one process; `left` says with which code each would have ended its process."""

  def __init__(self, silence=80.0, folder=None):
    self.store, self.left, self.watches = Store(), {}, {}
    self.silence, self.folder = silence, folder
    with socket.create_server(("localhost", 0)) as coordinator:
      self.coordinator = f"localhost:{coordinator.getsockname()[1]}"
      threads = [threading.Thread(target=self._start, args=(index,)) for index in range(3)]
      for thread in threads:
        thread.start()
      for thread in threads:
        thread.join(20)
    assert len(self.watches) == 3

  def _start(self, index):
    def leave(code):
      self.left[index] = code

    opened = open_lines(self.store, self.coordinator, index, 3)
    stacks = self.folder and self.folder / f"stacks-{index}.txt"
    self.watches[index] = Watchdog(
      opened, index, 3, silence=self.silence, stacks=stacks, leave=leave
    )

  def all_left(self, *indices) -> dict[int, int]:
    deadline = time.monotonic() + 20
    while set(self.left) != set(indices) and time.monotonic() < deadline:
      time.sleep(0.01)
    return self.left

  def kill(self, index):
    """What the system does to the lines of a process that is killed."""
    watch = self.watches[index]
    watch._parting = True
    for line in watch._lines.values():
      with socket.socket(fileno=os.dup(line.fileno())) as end, contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def three():
  return Three()


@pytest.mark.parametrize("index", [0, 2])
def test_an_error_of_one_process_stops_all_with_its_words_and_exit_code(three, capsys, index):
  three.watches[index].announce("the folder is in use", 2)
  others = {0, 1, 2} - {index}
  assert three.all_left(*others) == dict.fromkeys(others, 2)
  expected = f"error: process {index} of 3 stopped: the folder is in use\n"
  assert capsys.readouterr().err == 2 * expected


@pytest.mark.parametrize("index", [0, 2])
def test_a_process_that_is_killed_stops_all_and_is_named(three, capsys, index):
  three.kill(index)
  others = {0, 1, 2} - {index}
  assert three.all_left(*others) == dict.fromkeys(others, LOST)
  err = capsys.readouterr().err
  assert err.count(f"error: process {index} of 3 has ended without a word") == 2
  assert "give the same command to all processes again to go on" in err


def test_nobody_stops_when_all_come_to_their_end(three, capsys):
  for index in (2, 0, 1):
    three.watches[index].part()
    three.kill(index)
  time.sleep(0.2)
  assert three.left == {}
  assert capsys.readouterr().err == ""


def test_a_process_that_hangs_makes_all_write_their_stacks(tmp_path, capsys):
  three = Three(folder=tmp_path)
  three.watches[1].fail("no progress for 15 minutes", LOST, hangs=True)
  assert three.all_left(0, 1, 2) == dict.fromkeys(range(3), LOST)
  assert "error: process 1 of 3 stopped: no progress for 15 minutes\n" in capsys.readouterr().err
  for index in range(3):
    assert "most recent call first" in (tmp_path / f"stacks-{index}.txt").read_text()


def test_a_process_that_gives_no_sign_of_life_is_named(capsys):
  three = Three(silence=2.0)
  three.watches[2]._parting = True  # its lines stay open, but it says nothing more
  assert three.all_left(0, 1) == {0: LOST, 1: LOST}
  words = "error: process 2 of 3 stopped: it has given no sign of life for 2 s"
  assert capsys.readouterr().err.count(words) == 2


# Strangers at the port


class Waiting:
  """Process 0 of two, which waits for process 1."""

  def __init__(self):
    self.store, self.lines = Store(), None
    self.store.key_value_set(lines._ADDRESS, "127.0.0.1")
    self._thread = threading.Thread(target=self._serve, daemon=True)
    self._thread.start()
    port = self.store.blocking_key_value_get(lines._SECRET, 5000).split()[0]
    self.address = ("127.0.0.1", int(port))

  def _serve(self):
    self.lines = open_lines(self.store, "unused", 0, 2)

  def join(self) -> bool:
    """Whether process 1 gets its line."""
    # The last process says at which address the coordinator answers.
    del self.store.values[lines._ADDRESS]
    with socket.create_server(("127.0.0.1", 0)) as coordinator:
      mine = open_lines(self.store, f"127.0.0.1:{coordinator.getsockname()[1]}", 1, 2)
    self._thread.join(20)
    mine[0].send_bytes(b"hello")
    return self.lines[1].recv_bytes() == b"hello"


def test_idle_strangers_are_few_take_no_threads_and_keep_nobody_out():
  waiting, threads = Waiting(), threading.active_count()
  with contextlib.ExitStack() as stack:
    strangers = [stack.enter_context(socket.create_connection(waiting.address)) for _ in range(200)]
    deadline = time.monotonic() + 10
    closed = 0
    while closed < 200 - lines.MAX_STRANGERS - 1 and time.monotonic() < deadline:
      closed = sum(_is_closed(each) for each in strangers)
    assert closed == 200 - lines.MAX_STRANGERS - 1
    assert threading.active_count() <= threads
    assert waiting.join()


def _is_closed(end) -> bool:
  end.setblocking(False)
  try:
    return end.recv(1) == b""
  except BlockingIOError:
    return False
  except OSError:
    return True


def test_a_stranger_who_sends_without_end_is_cut_off_after_a_greeting():
  waiting, block, sent = Waiting(), b"x" * 2**20, 0
  with socket.create_connection(waiting.address) as stranger, contextlib.suppress(OSError):
    stranger.settimeout(5)
    while sent < 400 * 2**20:
      sent += stranger.send(block)
  # What the system itself takes before it tells the sender is some megabytes.
  assert sent < 40 * 2**20
  assert waiting.join()


@pytest.mark.parametrize("text", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 36, b"wrong 1\n"])
def test_a_stranger_changes_nothing(text):
  waiting = Waiting()
  with socket.create_connection(waiting.address) as stranger:
    stranger.sendall(text)
  assert waiting.join()


def test_once_all_are_there_nobody_can_connect():
  waiting = Waiting()
  assert waiting.join()
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(waiting.address)


def test_only_the_coordinators_address_is_listened_on():
  waiting = Waiting()
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(("127.0.0.2", waiting.address[1]))
  assert waiting.join()


def test_a_cluster_that_cannot_be_read_is_no_lack_of_one():
  """Each process would train the whole run, alone."""
  environment = os.environ | {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;usock;",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
  }
  program = "from train.processes.join import *\nwith init_processes(Processes()): print('alone')"
  done = subprocess.run(
    [sys.executable, "-c", program], env=environment, capture_output=True, text=True
  )
  assert "UserError: the processes of this run did not come together (" in done.stderr
  assert done.stdout == ""


def test_process_0_may_open_as_many_files_as_the_system_allows():
  before = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
  try:
    join._allow_many_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
