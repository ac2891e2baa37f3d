"""Joining the processes of a run: options, SIGTERM, and the lines between them."""

import argparse
import contextlib
import os
import signal
import socket
import threading
import time

import pytest

from train import watch as watch_module
from train.config import ConfigError
from train.distributed import Processes, _is_together, add_options, from_options, joined
from train.watch import LOST, Watch

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
  ],
)
def test_options_that_do_not_fit_are_refused_before_anything_waits(processes, message):
  with pytest.raises(ConfigError, match=message), joined(processes):
    pass


def test_commands_with_argparse_have_the_same_options():
  parser = argparse.ArgumentParser()
  add_options(parser)
  given = "--coordinator host:1 --num-processes 4 --process-id 3 --heartbeat-timeout 20"
  assert from_options(parser.parse_args(given.split())) == Processes("host:1", 4, 3, 20)
  assert from_options(parser.parse_args([])) == Processes()


# Clusters

SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "localhost",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "1",
}


def test_a_task_of_slurm_is_one_of_several_and_a_plain_process_is_not(monkeypatch):
  assert not _is_together(Processes())
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  assert _is_together(Processes())
  assert not _is_together(Processes(num_processes=1))


# SIGTERM to a single process


def test_sigterm_to_a_single_process_stops_at_the_next_step():
  with joined(Processes()) as should_stop:
    assert not should_stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert should_stop(2)
    # The second one ends the process, whatever it is doing.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_command_without_checkpoints_leaves_sigterm_as_it_is():
  before = signal.getsignal(signal.SIGTERM)
  with joined(Processes(num_processes=1), saves_on_sigterm=False) as should_stop:
    assert signal.getsignal(signal.SIGTERM) is before
    assert not should_stop(1)


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

  def __init__(self):
    self.store, self.left, self.watches = Store(), {}, {}
    threads = [threading.Thread(target=self._start, args=(index,)) for index in range(3)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(20)
    assert len(self.watches) == 3

  def _start(self, index):
    def leave(code):
      self.left[index] = code

    self.watches[index] = Watch(self.store, "localhost", index, 3, leave)

  def all_left(self, *indices) -> dict[int, int]:
    deadline = time.monotonic() + 20
    while set(self.left) != set(indices) and time.monotonic() < deadline:
      time.sleep(0.01)
    return self.left

  def kill(self, index):
    """What the system does to the lines of a process that is killed."""
    watch = self.watches[index]
    watch._parting = True
    for end in watch._ends.values():
      with contextlib.suppress(OSError):  # closed already
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


def test_a_stranger_at_the_port_changes_nothing(three):
  port = int(three.store.values[watch_module._KEY].split()[0])
  for text in (b"", b"GET / HTTP/1.1\r\n\r\n", b"wrong 1\n"):
    with socket.create_connection(("localhost", port)) as stranger:
      stranger.sendall(text)
  time.sleep(0.2)
  assert three.left == {}
