"""One flag for all that asks a run to stop, and one step for all processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from train.processes import watchdog
from train.processes.join import Processes, init_processes
from train.processes.stopping import Stopping, patient_output, signals
from train.processes.watchdog import LOST, Watchdog
from train.run.timing import Times

ALONE = Processes(num_processes=1)


def first_stop(should_stop, step) -> int:
  """The step at which the run stops, which asks from `step` on."""
  deadline = time.monotonic() + 20
  while not should_stop(step):
    step += 1
    assert time.monotonic() < deadline
    time.sleep(0.01)
  return step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_a_run_at_one_of_the_next_steps(number, tmp_path):
  before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
  signal.signal(number, before)  # and not ignored, as nohup leaves it
  with init_processes(ALONE, tmp_path) as should_stop:
    assert not should_stop(1)
    os.kill(os.getpid(), number)
    step = first_stop(should_stop, 2)
    assert not should_stop(step + 1)
  assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored(tmp_path):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with init_processes(ALONE, tmp_path) as should_stop:
      os.kill(os.getpid(), signal.SIGHUP)
      time.sleep(0.1)
      assert not any(should_stop(step) for step in range(1, 5))
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_command_without_checkpoints_leaves_signals_as_they_are():
  before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
  with init_processes(ALONE) as should_stop:
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert not should_stop(1)


def test_the_same_signal_again_is_a_repeat_but_not_in_the_same_second(monkeypatch):
  monkeypatch.setattr("train.processes.stopping._REPEAT_SECONDS", 0.2)
  came = []
  with signals(lambda number: came.append("first"), lambda number: came.append("repeat")):
    for pause in (0.0, 0.3, 0.1):
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(pause)
  assert came == ["first", "repeat"]


@pytest.mark.parametrize("commands", ["terminal.command_line", "contextlib.nullcontext"])
def test_a_closed_standard_output_is_no_error_and_asks_for_a_stop(commands):
  code = """
import contextlib, sys
from pst_jax import terminal
from train.processes.stopping import patient_output
asked, commands = [], COMMANDS
with commands(), patient_output(lambda: asked.append(1)):
  for _ in range(3):
    print("x", flush=True)
sys.stderr.write(f"asked {len(asked)}")
"""
  process = subprocess.Popen(
    [sys.executable, "-c", code.replace("COMMANDS", commands)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  process.stdout.close()
  assert process.stderr.read() == "asked 1"
  assert process.wait() == 0


def test_an_output_that_cannot_be_written_says_why_and_asks_for_a_stop():
  code = """
from train.processes.stopping import patient_output
asked = []
with patient_output(lambda: asked.append(1)):
  for _ in range(3):
    print("x", flush=True)
assert asked == [1]
"""
  with open("/dev/full", "w") as full:
    done = subprocess.run(
      [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=True
    )
  assert done.stderr == (
    "standard output cannot be written (No space left on device), so that the run stops\n"
  )


def test_output_with_a_reader_passes_through(capsys):
  with patient_output(lambda: pytest.fail("closed")):
    print("hello")
  assert capsys.readouterr().out == "hello\n"


# Several processes


class Store:
  """JAX's key-value store, as far as it is used."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value):
    if key in self.values:
      raise RuntimeError("ALREADY_EXISTS")
    self.values[key] = value

  def key_value_try_get(self, key):
    if key not in self.values:
      raise RuntimeError("NOT_FOUND")
    return self.values[key]

  def key_value_dir_get(self, directory):
    return [(key, value) for key, value in self.values.items() if key.startswith(directory)]


class Two:
  """Two processes that make steps until they stop; `stopped` says after which."""

  def __init__(self, steps=10**6):
    self.left, self.stopped, self.steps, store = {}, {}, steps, Store()
    self.stoppings = [
      Stopping(Watchdog({}, i, leave=lambda code, i=i: self.left.update({i: code})), store, i, 2)
      for i in range(2)
    ]

  def run(self, begin: int, seconds=(0.001, 0.0015)):
    threads = [
      threading.Thread(target=self._steps, args=(i, begin, seconds[i]), daemon=True)
      for i in range(2)
    ]
    for thread in threads:
      thread.start()
    return threads

  def _steps(self, index, begin, seconds):
    stopping = self.stoppings[index]
    for step in range(begin + 1, begin + 1 + self.steps):
      time.sleep(seconds)
      if stopping.should_stop(step):
        self.stopped[index] = step
        return
    stopping.close()


@pytest.mark.parametrize("asked", [[0], [1], [0, 1]])
def test_all_processes_stop_after_the_same_step_and_know_the_signal(asked):
  two = Two()
  threads = two.run(begin=1000)  # a run that goes on
  time.sleep(0.05)
  for index in asked:
    two.stoppings[index].request(signal.SIGTERM)
  for thread in threads:
    thread.join(20)
  assert two.stopped[0] == two.stopped[1] > 1000
  assert {each.signal for each in two.stoppings} == {signal.SIGTERM}


def test_who_asks_goes_no_further_than_the_next_step(monkeypatch):
  two, try_get = Two(), Store.key_value_try_get

  def slow(store, key):
    time.sleep(0.1)
    return try_get(store, key)

  monkeypatch.setattr(Store, "key_value_try_get", slow)
  assert not any(stopping.should_stop(10) for stopping in two.stoppings)
  two.stoppings[0].request(signal.SIGTERM)
  assert two.stoppings[0].should_stop(11)


def test_before_the_first_step_all_processes_end_at_once(capsys):
  two = Two()
  two.stoppings[1].request(signal.SIGTERM)
  deadline = time.monotonic() + 20
  while len(two.left) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert two.left == {0: 143, 1: 143}
  assert capsys.readouterr().err.count("stopped before the first step; give the same command") == 1


def test_a_request_after_the_last_step_of_one_process_lets_all_end(monkeypatch):
  monkeypatch.setattr("train.processes.stopping._POLL_SECONDS", 0.05)
  two = Two(steps=20)
  threads = two.run(begin=0, seconds=(0.001, 0.02))
  threads[0].join(20)
  two.stoppings[1].request(signal.SIGTERM)
  threads[1].join(20)
  assert (two.stopped, two.left) == ({}, {})


# Hanging


def hang(times, kind, tmp_path, seconds):
  left = []
  watch = Watchdog({}, stacks=tmp_path / "stacks-0.txt", leave=left.append)
  minutes = 0.005  # 0.3 s
  with watchdog.watch_stalls(watch, times, minutes, tmp_path, 0.01), times.measure(kind):
    time.sleep(seconds)
  return left


def test_a_run_without_progress_leaves_its_stacks_and_ends(tmp_path, capsys):
  assert hang(Times(), "data_wait", tmp_path, 0.9) == [LOST]
  err = capsys.readouterr().err
  assert err.startswith("error: no progress for 0.005 minutes while waiting for data; the stacks")
  assert "in hang" in (tmp_path / "stacks-0.txt").read_text()


def test_compiling_may_take_longer(tmp_path):
  assert hang(Times(), "compilation", tmp_path, 0.6) == []


def test_progress_in_small_steps_is_no_stall(tmp_path):
  times, left = Times(), []
  with watchdog.watch_stalls(Watchdog({}, leave=left.append), times, 0.005, tmp_path, 0.01):
    for _ in range(20):
      with times.measure("data_wait"):
        time.sleep(0.03)
  assert left == []
