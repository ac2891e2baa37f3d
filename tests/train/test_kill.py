"""kill -9 at any moment of a run changes nothing of what it ends with."""

import random
import signal
import time

import pytest
from support.killed_runs import assert_same_end, finish, start_digits, wait_for_step


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_that_was_not(tmp_path):
  rng = random.Random(0)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  finish(start_digits(tmp_path, whole))
  for step in (rng.randrange(1, 12), rng.randrange(16, 26), rng.randrange(30, 38)):
    process = start_digits(tmp_path, killed)
    try:
      wait_for_step(process, killed, step)
      time.sleep(rng.uniform(0, 0.1))
    finally:
      process.send_signal(signal.SIGKILL)
      process.communicate()
    assert process.returncode == -signal.SIGKILL
  finish(start_digits(tmp_path, killed))

  assert_same_end(whole, killed)
