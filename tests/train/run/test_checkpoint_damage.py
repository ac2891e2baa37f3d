"""Damaged checkpoints and full or forbidden disks: nothing good is lost, nothing bad is used."""

import errno
import logging
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.saved_states import (
  abstract,
  data_file,
  flip_bit,
  random_bits,
  same_bits,
  save_steps,
  sharding,
  small_state,
  steps_in,
)

from pst_jax.checkpoints.read import short
from pst_jax.errors import UserError
from train.run.checkpoints import Checkpoints, check_directory, restore

# Damage

DAMAGES = {
  "truncated": lambda d: os.truncate(data_file(d, 2), data_file(d, 2).stat().st_size // 2),
  "flipped": lambda d: flip_bit(data_file(d, 2)),
  "deleted": lambda d: data_file(d, 2).unlink(),
  "no arrays": lambda d: shutil.rmtree(d / "2" / "state"),
  "arrays of another step": lambda d: (
    shutil.rmtree(d / "2" / "state"),
    shutil.copytree(d / "1" / "state", d / "2" / "state"),
  ),
  "no record": lambda d: shutil.rmtree(d / "2" / "record"),
  "changed record": lambda d: flip_bit(d / "2" / "record" / "metadata"),
  "empty": lambda d: (shutil.rmtree(d / "2"), (d / "2").mkdir()),
}


@pytest.fixture
def caught(caplog):
  caplog.set_level(logging.WARNING, "pst_jax.checkpoints.read")
  return caplog


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caught, damage):
  save_steps(tmp_path, [1, 2])
  DAMAGES[damage](tmp_path)
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(abstract(small_state(0)))
  assert restored.step == 1
  assert same_bits(restored.state, small_state(1))
  (message,) = [r.getMessage() for r in caught.records if r.name == "pst_jax.checkpoints.read"]
  assert "step 2" in message
  assert "step 1 is used" in message


def test_a_damaged_step_is_kept_aside_and_can_be_saved_again(tmp_path):
  for _ in range(2):
    save_steps(tmp_path, [1, 2] if not (tmp_path / "1").exists() else [2])
    flip_bit(data_file(tmp_path, 2))
    with Checkpoints(tmp_path) as checkpoints:
      assert checkpoints.restore(abstract(small_state(0))).step == 1
      assert checkpoints.latest_step == 1
  save_steps(tmp_path, [2])
  assert sorted(x.name for x in (tmp_path / "damaged").iterdir()) == ["2", "2.1"]
  with Checkpoints(tmp_path) as checkpoints:
    assert same_bits(checkpoints.restore(abstract(small_state(0))).state, small_state(2))


@pytest.mark.slow
def test_whatever_file_is_damaged_only_saved_content_is_restored(tmp_path, caught):
  save_steps(tmp_path / "good", [1, 2])
  names = [
    x.relative_to(tmp_path / "good")
    for x in (tmp_path / "good" / "2").rglob("*")
    if x.is_file() and x.stat().st_size
  ]
  assert len(names) > 8
  ways = [pathlib.Path.unlink, flip_bit]
  for name in names:
    for way in ways:
      shutil.copytree(tmp_path / "good", tmp_path / "bad")
      way(tmp_path / "bad" / name)
      restored = restore(tmp_path / "bad", abstract(small_state(0)))
      assert same_bits(restored.state, small_state(restored.step))
      shutil.rmtree(tmp_path / "bad")


def test_best_gives_way_to_the_next_best(tmp_path):
  with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
    for step, top1 in {1: 0.5, 2: 0.9, 3: 0.7}.items():
      checkpoints.save(step, small_state(step), metrics=None, best=top1, extra={})
  flip_bit(data_file(tmp_path, 2))
  assert restore(tmp_path, abstract(small_state(0)), "best").step == 3
  assert steps_in(tmp_path) == [1, 2, 3]


def test_when_all_are_damaged_the_error_lists_them_and_nothing_is_moved(tmp_path):
  save_steps(tmp_path, [1, 2])
  flip_bit(data_file(tmp_path, 1))
  (tmp_path / "2" / "record" / "metadata").unlink()
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"step 2.*step 1"):
    checkpoints.restore(abstract(small_state(0)))
  assert steps_in(tmp_path) == [1, 2]


def test_a_damaged_step_that_was_asked_for_is_an_error(tmp_path):
  save_steps(tmp_path, [1, 2])
  flip_bit(data_file(tmp_path, 2))
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="step 2"):
    checkpoints.restore(abstract(small_state(0)), 2)


def test_a_half_written_checkpoint_is_not_seen_and_is_cleaned_up(tmp_path):
  save_steps(tmp_path, [1, 2])
  (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(small_state(0))).step == 1
    checkpoints.save(2, small_state(2), metrics=None, extra={})
  assert sorted(x.name for x in tmp_path.iterdir()) == ["1", "2"]


KILLED = """
import sys
import jax.numpy as jnp
from train.run.checkpoints import Checkpoints
with Checkpoints(sys.argv[1]) as checkpoints:
  for step in range(1, 10_000):
    state = {"x": jnp.arange(1_000_003) * step, "y": jnp.full(7, step)}
    checkpoints.save(step, state, metrics=None, extra={})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_after_kill_9_the_newest_checkpoint_is_complete(tmp_path):
  for wait in (0.0, 0.1):
    process = subprocess.Popen(
      [sys.executable, "-c", KILLED, str(tmp_path / str(wait))], stdout=subprocess.PIPE, text=True
    )
    try:
      while int(process.stdout.readline()) < 5:
        pass
      time.sleep(wait)
    finally:
      process.send_signal(signal.SIGKILL)
      process.communicate()
    wanted = {
      "x": jax.ShapeDtypeStruct((1_000_003,), jnp.int32, sharding=sharding(1)),
      "y": jax.ShapeDtypeStruct((7,), jnp.int32, sharding=sharding(1)),
    }
    with Checkpoints(tmp_path / str(wait)) as checkpoints:
      restored = checkpoints.restore(wanted)
    assert restored.step >= 3
    assert np.array_equal(restored.state["x"], np.arange(1_000_003) * restored.step)


# Disks


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    Checkpoints(tmp_path / "file" / "checkpoints")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_an_error_at_once(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match="cannot be written"):
    Checkpoints(tmp_path)


def test_too_little_room_is_an_error_that_names_both_sizes(tmp_path):
  with pytest.raises(UserError, match=r"need 1e\+09 GB .* GB are free"):
    check_directory(tmp_path, 10**18)


def test_the_room_needed_counts_all_checkpoints_that_are_kept(tmp_path, monkeypatch):
  free = 10 * 4000
  monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
  state = {"x": jax.ShapeDtypeStruct((1000,), jnp.float32)}
  with Checkpoints(tmp_path, keep_latest=8) as checkpoints:
    checkpoints.require_space(state, saves=100)
  with Checkpoints(tmp_path, keep_latest=9) as checkpoints, pytest.raises(UserError):
    checkpoints.require_space(state, saves=100)
  with Checkpoints(tmp_path, keep_latest=10_000) as checkpoints:
    checkpoints.require_space(state, saves=9)  # and one where it is stopped


class limited_files:
  """Files of this process cannot grow beyond a size: writing fails as on a full disk."""

  def __init__(self, size: int):
    self.size = size

  def __enter__(self):
    self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

  def __exit__(self, *_):
    resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_failed_save_names_the_last_good_checkpoint_and_leaves_no_step(tmp_path, caplog):
  big = {"x": jnp.asarray(random_bits("uint32", (2**20,)))}
  with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
    checkpoints.save(1, big, metrics=None, extra={})
    checkpoints.wait()
    with limited_files(2**20), pytest.raises(UserError, match="last good one is step 1"):
      checkpoints.save(2, big, metrics=None, extra={})
      checkpoints.wait()
  assert not [record for record in caplog.records if record.exc_info]
  with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
    restored = checkpoints.restore(abstract(big))
    assert restored.step == 1
    assert same_bits(restored.state, big)
    checkpoints.save(2, big, metrics=None, extra={})
  assert [x.name for x in tmp_path.iterdir()] == ["2"]


FAILED = """
import resource, sys
import jax.numpy as jnp, numpy as np
from pst_jax.errors import run_command
from train.run.checkpoints import Checkpoints

def main(arguments):
  rng = np.random.default_rng(0)
  state = {str(i): jnp.asarray(rng.standard_normal((64, 64, 1 + i % 9))) for i in range(250)}
  with Checkpoints(arguments[0]) as checkpoints:
    checkpoints.save(1, state, extra={})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    checkpoints.save(2, state, extra={})
    checkpoints.wait()

run_command(main, sys.argv[1:])
"""


def test_a_failed_save_of_many_arrays_is_one_line(tmp_path):
  """Every array that is being written then fails on its own, in a thread or when it is deleted."""
  done = subprocess.run(
    [sys.executable, "-c", FAILED, str(tmp_path)], capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert "failed (File too large); the last good one is step 1; free some" in done.stderr
  assert done.stderr.count("\n") == 1


def test_a_failed_last_save_is_an_error_when_the_run_ends(tmp_path):
  big = {"x": jnp.asarray(random_bits("uint32", (2**20,)))}
  with limited_files(2**20), pytest.raises(UserError, match="there is none before it"):  # noqa: SIM117
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(2, big, metrics=None, extra={})


def test_an_error_while_closing_is_a_failed_save_too(tmp_path, monkeypatch):
  def close():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  checkpoints = Checkpoints(tmp_path)
  closing = checkpoints._manager.close
  monkeypatch.setattr(checkpoints._manager, "close", close)
  with pytest.raises(UserError, match=r"Saving .* failed \(.*No space left"):
    checkpoints.close()
  closing()


def test_the_error_that_ends_a_run_is_not_hidden_by_a_failed_save(tmp_path):
  big = {"x": jnp.asarray(random_bits("uint32", (2**20,)))}
  with limited_files(2**20), pytest.raises(UserError, match="loss is not finite"):  # noqa: SIM117
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(2, big, metrics=None, extra={})
      raise UserError("loss is not finite")


def test_a_sentence_of_ours_is_told_to_its_end():
  sentence = f"The folder /{'x' * 300} cannot be written (Too many open files); free some"
  assert short(UserError(sentence)) == sentence
