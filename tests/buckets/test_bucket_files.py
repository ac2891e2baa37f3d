"""Weights from and to a bucket, outputs of commands, and what one sentence says of a bad bucket."""

import os
import subprocess
import sys

import pytest
from support.store import BUCKET
from support.tiny_weights import same, save_run, weights

from pst_jax import __main__ as command_line
from pst_jax import buckets
from pst_jax.buckets import bucket_path
from pst_jax.convert import io
from pst_jax.errors import MissingFileError, UserError
from pst_jax.files import write_output


def test_a_file_of_weights_goes_to_a_bucket_and_comes_back(folder):
  new = weights()
  io.write(f"{folder}/w.safetensors", new)
  found = io.read(f"{folder}/w.safetensors")
  assert same(found.state_dict(), new.state_dict())
  assert found.metadata == new.metadata
  assert io.read_as_is(f"{folder}/w.safetensors").form == "safetensors"


def test_a_folder_of_weights_goes_to_a_bucket_and_comes_back(folder):
  new = weights()
  io.write(f"{folder}/w", new)
  assert same(io.read(f"{folder}/w").state_dict(), new.state_dict())
  with pytest.raises(UserError, match=r"cannot be replaced in one step: delete it first"):
    io.write(f"{folder}/w", new, force=True)


def test_a_file_that_exists_is_kept_unless_forced(folder):
  write_output(f"{folder}/a.json", b"old")
  with pytest.raises(UserError, match=r"a.json: this object exists and is kept.*--force"):
    write_output(f"{folder}/a.json", b"new")
  assert bucket_path(f"{folder}/a.json", "x").read_bytes() == b"old"
  write_output(f"{folder}/a.json", b"new", force=True)
  assert bucket_path(f"{folder}/a.json", "x").read_bytes() == b"new"


def test_a_command_converts_between_buckets(folder, tmp_path, capsys):
  save_run(tmp_path / "run")
  files = bucket_path(folder, "x")
  buckets.filesystem(files).put(str(tmp_path / "run"), f"{folder}/run", recursive=True)
  assert command_line.main(["convert", f"{folder}/run", f"{folder}/w.safetensors"]) == 0
  assert "read back: every entry equal" in capsys.readouterr().out
  assert command_line.main(["convert", f"{folder}/run", str(tmp_path / "w.safetensors")]) == 0
  local = io.read(tmp_path / "w.safetensors")
  assert same(io.read(f"{folder}/w.safetensors").variables, local.variables)


def test_nothing_there_is_named(folder):
  with pytest.raises(MissingFileError, match=f"^{folder}/w.pt: there is nothing; check the name"):
    io.read(f"{folder}/w.pt")


def test_an_error_about_a_copy_names_the_object(folder):
  write_output(f"{folder}/w.safetensors", b"")
  with pytest.raises(UserError, match=f"^{folder}/w.safetensors: this file is empty"):
    io.read(f"{folder}/w.safetensors")


def test_no_such_bucket(store):
  with pytest.raises(UserError, match=r"gs://nobucket/x cannot be written \(there is no such buck"):
    buckets.require_writable(bucket_path("gs://nobucket/x", "x"))


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission_says_how_to_sign_in(store, folder, status):
  store.fail(status)
  with pytest.raises(UserError, match=r"cannot be written \(access was refused .*: sign in"):
    buckets.require_writable(bucket_path(folder, "x"))


def test_an_installed_tensorflow_is_not_gone_through(shared_store, tmp_path):
  (tmp_path / "tensorflow.py").write_text("raise RuntimeError('imported')\n")
  ask = (
    "from pst_jax.buckets import bucket_path; print(bucket_path('gs://bucket/none', 'x').is_dir())"
  )
  places = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
  found = subprocess.run(
    [sys.executable, "-c", ask], env=os.environ | places, capture_output=True, text=True
  )
  assert found.stdout == "False\n", found.stderr


@pytest.mark.parametrize("question", ["exists", "is_dir", "is_file"])
def test_what_may_not_be_looked_at_is_not_taken_for_absent(store, folder, question):
  path = bucket_path(folder, "x")
  assert not getattr(path, question)()
  store.fail(401)
  with pytest.raises(PermissionError, match="access was refused"):
    getattr(path, question)()


def test_a_store_that_fails_for_a_while_is_asked_again(store, folder):
  store.fail(503, times=3)
  write_output(f"{folder}/a", b"content")
  store.fail("cut", pattern="alt=media", times=2)
  with buckets.local_copy(bucket_path(f"{folder}/a", "x")) as copy:
    assert copy.read_bytes() == b"content"


def test_a_store_that_fails_for_long_is_given_up_with_a_sentence(store, folder):
  store.fail(503)
  before = len(store.requests)
  with pytest.raises(UserError, match=r"cannot be read \(the store answers: fault 503"):
    write_output(f"{folder}/a", b"content")
  assert 3 <= len(store.requests) - before <= 20


def test_a_store_that_is_silent_is_given_up_with_a_sentence(store, folder, monkeypatch):
  path = bucket_path(folder, "x")
  import aiohttp
  from gcsfs.core import GCSFileSystem

  impatient = property(lambda self: aiohttp.ClientTimeout(sock_read=0.05), lambda self, value: None)
  monkeypatch.setattr(GCSFileSystem, "requests_timeout", impatient, raising=False)
  for files in type(buckets.filesystem(path))._cache.values():
    monkeypatch.delitem(files.__dict__, "requests_timeout", raising=False)
  store.rule = lambda method, path: 1.0
  with pytest.raises(UserError, match=r"cannot be written \(the store does not answer"):
    buckets.require_writable(path)


def test_credentials_that_end_are_told():
  from google.auth.exceptions import RefreshError

  error = buckets.os_error(RefreshError("Reauthentication is needed"))
  assert isinstance(error, PermissionError)
  assert "Reauthentication is needed" in error.strerror


@pytest.mark.parametrize(
  ("url", "says"),
  [
    ("gs://", "names no bucket: write gs://BUCKET/FOLDER"),
    ("http://bucket/x", "but only gs:// and s3:// can be used here"),
  ],
)
def test_other_urls_are_refused(url, says):
  with pytest.raises(UserError, match=says):
    io.read(url)


def test_a_missing_driver_is_told(monkeypatch):
  buckets._install.cache_clear()
  monkeypatch.setitem(__import__("sys").modules, "gcsfs.core", None)
  with pytest.raises(UserError, match=r"gs:// need gcsfs .* pip install"):
    io.read(f"gs://{BUCKET}/x")
  buckets._install.cache_clear()


def test_images_and_drawings_are_of_a_disk(tmp_path, capsys):
  (tmp_path / "a.png").touch()
  for arguments in (["gs://b/a.png"], [str(tmp_path / "a.png"), "--draw", "gs://b/a.png"]):
    assert command_line.main(["predict", "w.safetensors", *arguments]) == 2
    assert "but no bucket can be used here directly" in capsys.readouterr().err
