import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from pst_jax.convert.atomic import atomic_write
from pst_jax.convert.safetensors_file import write_safetensors
from pst_jax.convert.torch_file import write_torch_file


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
    "import os, signal, sys; from pst_jax.convert.atomic import atomic_write\n"
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


@pytest.mark.parametrize("write", [write_safetensors, write_torch_file])
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
