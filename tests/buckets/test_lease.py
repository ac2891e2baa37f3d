"""The lock of a run in a bucket: one holder, left behind by those that died, lost with notice."""

import json
import subprocess
import sys
import time

import pytest
from support.store import BUCKET

from pst_jax import lease as module
from pst_jax.buckets import bucket_path
from pst_jax.errors import UserError
from pst_jax.lease import _holder, lease

TEXTS = {"unwritable": "not written ({reason})", "busy": "someone trains here"}


@pytest.fixture
def lock(folder, monkeypatch):
  monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
  monkeypatch.setattr(module, "LEASE_SECONDS", 2.0)
  return bucket_path(f"{folder}/.lock", "x")


def held_by(lock, **changes) -> None:
  lock.write_text(json.dumps({"token": "t", **_holder(), **changes}))


def test_one_at_a_time(lock):
  with lease(lock, **TEXTS) as require:
    require()
    with pytest.raises(UserError, match="someone trains here"), lease(lock, **TEXTS):
      pass
    assert lock.exists()
  assert not lock.exists()
  with lease(lock, **TEXTS):
    pass


def test_a_lock_whose_making_is_asked_for_again_is_ones_own(lock, store):
  store.fail("cut", pattern="upload", times=1, method="POST")
  before = len(store.requests)
  with lease(lock, **TEXTS) as require:
    made = [path for method, path in store.requests[before:] if method == "POST"]
    assert len(made) == 2
    require()
  assert not lock.exists()


def test_a_process_of_this_machine_that_died_holds_nothing(lock, monkeypatch):
  monkeypatch.setattr(module, "LEASE_SECONDS", 1e6)
  done = subprocess.run(
    [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
  )
  for changes in ({"pid": int(done.stdout)}, {"began": "1"}):
    held_by(lock, **changes)
    with lease(lock, **TEXTS):
      pass


def test_a_process_of_another_container_of_this_machine_is_not_taken_for_dead(lock, monkeypatch):
  """Their process ids count from 1 each."""
  monkeypatch.setattr(module, "LEASE_SECONDS", 60.0)
  with lease(lock, **TEXTS):
    monkeypatch.setattr(module, "_pids", lambda: "pid:[1]")
    monkeypatch.setattr(module, "_began", lambda pid="self": "7")
    with pytest.raises(UserError, match="someone trains here"), lease(lock, **TEXTS):
      pass


@pytest.mark.parametrize(
  "text", ['{"host": "elsewhere", "boot": "b", "pid": 1, "began": "1"}', "?"]
)
def test_a_lock_of_another_machine_without_a_sign_of_life_is_taken(lock, text):
  lock.write_text(text)
  with lease(lock, **TEXTS) as require:
    require()
    assert json.loads(lock.read_text())["pid"] == _holder()["pid"]


def test_a_lock_of_another_machine_that_shows_life_is_kept(lock, monkeypatch):
  monkeypatch.setattr(module, "LEASE_SECONDS", 60.0)
  with lease(lock, **TEXTS):
    monkeypatch.setattr(module, "_boot", lambda: "another machine")
    with pytest.raises(UserError, match="someone trains here"), lease(lock, **TEXTS):
      pass


def test_a_lock_that_was_taken_is_told_and_left_to_the_other(lock):
  with lease(lock, **TEXTS) as require:
    lock.unlink()
    held_by(lock, host="elsewhere")
    other = lock.read_text()
    deadline = time.monotonic() + 60
    with pytest.raises(UserError, match=r"was taken by another process.*nothing more is saved"):
      while time.monotonic() < deadline:
        require()
        time.sleep(0.02)
  assert lock.read_text() == other


def test_a_holder_that_was_cut_off_asks_before_it_saves(lock, monkeypatch):
  monkeypatch.setattr(module, "BEAT_SECONDS", 600.0)  # no beat of its own comes first
  with lease(lock, **TEXTS) as require:
    lock.unlink()
    held_by(lock, host="elsewhere")
    time.sleep(module.LEASE_SECONDS / 2)
    with pytest.raises(UserError, match=r"was taken by another process"):
      require()


def test_a_store_that_fails_for_a_moment_costs_no_lock(lock, store):
  with lease(lock, **TEXTS) as require:
    store.fail(503, times=20, method="PATCH")
    time.sleep(0.5)
    store.rule = lambda method, path: None
    time.sleep(0.3)
    require()
    assert lock.exists()


def test_no_permission_is_told(lock, store):
  store.fail(403)
  with (
    pytest.raises(UserError, match=r"not written \(access was refused .*sign in"),
    lease(lock, **TEXTS),
  ):
    pass


def test_no_such_bucket_is_told(store, lock):
  with (
    pytest.raises(UserError, match=r"not written \(there is no such bucket"),
    lease(bucket_path(f"gs://no{BUCKET}/.lock", "x"), **TEXTS),
  ):
    pass
