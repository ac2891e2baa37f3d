import contextlib
import errno
import os
import pathlib
import resource
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from support.pytorch import needs_torch

from pst_jax import files, folders
from pst_jax.convert.formats.safetensors_file import write_safetensors
from pst_jax.convert.formats.torch_file import write_torch_file
from pst_jax.errors import MissingFileError, UserError
from pst_jax.files import atomic_write, atomic_writes, existing_file
from pst_jax.folders import recover_folder, replace_folder


@pytest.fixture
def existing(tmp_path):
  path = tmp_path / "weights"
  path.write_bytes(b"old")
  return path


def test_new_file_appears_at_the_end_of_the_block(tmp_path):
  with atomic_write(tmp_path / "new") as file:
    file.write(b"content")
    assert not (tmp_path / "new").exists()
  assert (tmp_path / "new").read_bytes() == b"content"
  assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_the_disk_may_not_keep_is_told(existing, monkeypatch):
  def failing(folder):
    raise OSError(errno.EIO, "Input/output error", str(folder))

  monkeypatch.setattr(files, "sync_folder", failing)
  with pytest.raises(UserError, match="written, but the disk failed to keep the new names"):
    files.write_output(existing, b"new", force=True)
  assert existing.read_bytes() == b"new"


def test_existing_file_is_kept(existing):
  with pytest.raises(ValueError, match=r"exists and is kept.*--force"), atomic_write(existing):
    pytest.fail("the block must not start")
  assert existing.read_bytes() == b"old"


def test_force_replaces(existing):
  with atomic_write(existing, force=True) as file:
    file.write(b"new")
  assert existing.read_bytes() == b"new"


def test_failure_keeps_the_old_file_and_leaves_nothing(existing):
  with pytest.raises(KeyboardInterrupt), atomic_write(existing, force=True) as file:
    file.write(b"half")
    raise KeyboardInterrupt
  assert existing.read_bytes() == b"old"
  assert list(existing.parent.iterdir()) == [existing]


def test_file_that_appears_meanwhile_is_kept(tmp_path):
  path = tmp_path / "weights"
  with pytest.raises(ValueError, match="exists and is kept"), atomic_write(path) as file:
    file.write(b"mine")
    path.write_bytes(b"theirs")
  assert path.read_bytes() == b"theirs"
  assert list(tmp_path.iterdir()) == [path]


def test_killed_in_the_middle_keeps_the_old_file(existing):
  program = (
    "import os, signal, sys; from pst_jax.files import atomic_write\n"
    "with atomic_write(sys.argv[1], force=True) as file:\n"
    "  file.write(b'half' * 100_000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  killed = subprocess.run([sys.executable, "-c", program, existing], timeout=60, check=False)
  assert killed.returncode == -signal.SIGKILL
  assert existing.read_bytes() == b"old"


@contextlib.contextmanager
def full_disk(limit):
  """Writing beyond `limit` bytes of a file fails with OSError, as on a full disk."""
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
  "write", [write_safetensors, pytest.param(write_torch_file, marks=needs_torch)]
)
def test_full_disk_keeps_the_old_file_and_leaves_nothing(existing, write):
  arrays = {"a": np.zeros(100_000)}
  with (
    full_disk(100_000),
    pytest.raises(ValueError, match=r"could not be written \(.*\); nothing was"),
  ):
    write(existing, arrays, {}, force=True)
  assert existing.read_bytes() == b"old"
  assert list(existing.parent.iterdir()) == [existing]


def test_folder_that_does_not_exist(tmp_path):
  with (
    pytest.raises(ValueError, match="does not exist; make it first"),
    atomic_write(tmp_path / "a/b"),
  ):
    pass


def test_directory_and_device_are_no_destination(tmp_path):
  for path, kind in ((tmp_path, "a directory"), (os.devnull, "no regular file")):
    with pytest.raises(ValueError, match=kind), atomic_write(path, force=True):
      pass


def test_link_is_followed(existing, tmp_path):
  link = tmp_path / "link"
  link.symlink_to(existing)
  with atomic_write(link, force=True) as file:
    file.write(b"new")
  assert link.is_symlink()
  assert existing.read_bytes() == b"new"


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path):
  (tmp_path / "ordinary").touch()
  with atomic_write(tmp_path / "new"):
    pass
  modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "new")]
  assert modes[0] == modes[1]


def test_a_written_file_and_its_name_are_on_the_disk_when_it_ends(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(
    os, "fsync", lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}"))
  )
  monkeypatch.setattr(os, "replace", lambda old, new: calls.append("replace"))
  with atomic_write(tmp_path / "new") as file:
    file.write(b"content")
  written, *others = calls
  assert pathlib.Path(written).parent == tmp_path
  assert others == ["replace", str(tmp_path)]


def test_files_that_belong_together_are_replaced_together_or_not_at_all(tmp_path, monkeypatch):
  for name in ("facts", "network"):
    (tmp_path / name).write_bytes(b"old")

  def fail(old, new):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr(os, "replace", fail)
  with (
    pytest.raises(UserError, match=r"Input/output error.*nothing was changed"),
    atomic_writes(tmp_path / "facts", tmp_path / "network", force=True) as (facts, network),
  ):
    facts.write(b"new")
    network.write(b"new")
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
    "facts": b"old",
    "network": b"old",
  }


@pytest.mark.parametrize("count", [0, 1])
def test_killed_between_two_renames_no_old_file_lies_beside_a_new_one(tmp_path, count):
  for name in ("facts", "network"):
    (tmp_path / name).write_bytes(b"old")
  program = (
    "import os, signal, sys; from pst_jax.files import atomic_writes\n"
    "replace, done = os.replace, []\n"
    "def kill(old, new):\n"
    f"  if len(done) == {count}: os.kill(os.getpid(), signal.SIGKILL)\n"
    "  done.append(replace(old, new))\n"
    "os.replace = kill\n"
    "with atomic_writes('facts', 'network', force=True) as files:\n"
    "  for file in files: file.write(b'new')\n"
  )
  environment = os.environ | {"PYTHONPATH": os.getcwd()}
  command = [sys.executable, "-c", program]
  killed = subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, check=False)
  assert killed.returncode == -signal.SIGKILL
  assert not (tmp_path / "facts").exists()
  assert (tmp_path / "network").read_bytes() == (b"old", b"new")[count]


@pytest.fixture
def two_folders(tmp_path):
  for name in ("old", "new"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text(name)
  return tmp_path / "new", tmp_path / "old"


class Killed(BaseException):
  """Ends a process where it stands: nothing catches it."""


def kill(*arguments, **options):
  raise Killed


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_and_nothing_stays(two_folders, tmp_path, monkeypatch, can_exchange):
  if not can_exchange:
    monkeypatch.setattr(folders, "_exchange", lambda one, two: False)
  replace_folder(*two_folders)
  assert (two_folders[1] / "file").read_text() == "new"
  assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_changes_in_one_step(two_folders, monkeypatch):
  """Whatever comes after the exchange, the name has a folder."""
  monkeypatch.setattr(pathlib.Path, "rename", kill)
  with pytest.raises(Killed):
    replace_folder(*two_folders)
  assert (two_folders[1] / "file").read_text() == "new"


def test_killed_between_two_renames_of_folders_the_next_call_recovers(two_folders, monkeypatch):
  rename, done = pathlib.Path.rename, []

  def killed_at_second(path, target):
    if done:
      raise Killed
    done.append(rename(path, target))

  with monkeypatch.context() as patch:
    patch.setattr(folders, "_exchange", lambda one, two: False)
    patch.setattr(pathlib.Path, "rename", killed_at_second)
    with pytest.raises(Killed):
      replace_folder(*two_folders)
  assert not two_folders[1].exists()
  recover_folder(two_folders[1])
  assert (two_folders[1] / "file").read_text() == "old"


def test_a_file_that_is_missing_is_a_users_mistake_and_no_file(tmp_path):
  for kind in (UserError, FileNotFoundError):
    with pytest.raises(kind, match="there is no such file; check the path"):
      existing_file(tmp_path / "nothing")
  assert issubclass(MissingFileError, OSError)


def test_a_second_lock_is_refused(tmp_path):
  texts = {"unwritable": "no: {reason}", "busy": "busy"}
  with (
    files.lock(tmp_path / "a" / ".lock", **texts),
    pytest.raises(UserError, match="busy"),
    files.lock(tmp_path / "a" / ".lock", **texts),
  ):
    pass
  with files.lock(tmp_path / "a" / ".lock", **texts):
    pass
  with pytest.raises(BlockingIOError), files.lock(tmp_path / "a" / ".lock", **texts):
    raise BlockingIOError("no process can be started")  # of what is done while it is held
  with (
    pytest.raises(UserError, match="no: File exists"),
    files.lock(tmp_path / "a" / ".lock" / "b", **texts),
  ):
    pass
