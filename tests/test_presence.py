"""What nobody can look at is not taken for absent, on every Python."""

import errno
import os
import pathlib

import pytest

from pst_jax.checkpoints.layout import is_unfinished, marker, saved_steps
from pst_jax.convert.formats.orbax_folder import check_folder
from pst_jax.files import check_free, existing_file
from pst_jax.overwrite import is_pending
from pst_jax.presence import is_file, is_folder, is_there
from train.run.folder import RunFolder

LOOKS = {
  "saved steps": lambda folder: saved_steps(folder / "checkpoints"),
  "a checkpoint": lambda folder: is_unfinished(folder / "checkpoints" / "7"),
  "the config": lambda folder: RunFolder(folder).has_config(),
  "a file of weights": lambda folder: existing_file(folder / "config.json"),
  "a file to write": lambda folder: check_free(folder / "config.json"),
  "a folder to write": lambda folder: check_folder(folder / "checkpoints"),
  "a file half written": lambda folder: is_pending(folder / "config.json"),
}


@pytest.fixture
def as_in_python_3_14(monkeypatch):
  monkeypatch.setattr(pathlib.Path, "is_dir", lambda path: os.path.isdir(path))
  monkeypatch.setattr(pathlib.Path, "is_file", lambda path: os.path.isfile(path))
  monkeypatch.setattr(pathlib.Path, "exists", lambda path: os.path.exists(path))


@pytest.mark.parametrize("look", LOOKS)
def test_a_disk_that_fails_is_no_empty_folder(monkeypatch, tmp_path, as_in_python_3_14, look):
  (tmp_path / "checkpoints" / "7").mkdir(parents=True)
  marker(tmp_path / "checkpoints" / "7").touch()

  def failing(path, *_, **__):
    raise OSError(errno.EIO, "Input/output error", str(path))

  monkeypatch.setattr(os, "stat", failing)
  with pytest.raises(OSError, match="Input/output error"):
    LOOKS[look](tmp_path)


def test_what_is_there_is_found(tmp_path):
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to("file")
  (tmp_path / "loose").symlink_to("nothing")
  names = ("file", "link", "loose", "none", "file/none", ".")
  paths = {name: tmp_path / name for name in names}
  found = {name: (is_there(path), is_file(path), is_folder(path)) for name, path in paths.items()}
  assert found == {
    "file": (True, True, False),
    "link": (True, True, False),
    "loose": (False, False, False),
    "none": (False, False, False),
    "file/none": (False, False, False),
    ".": (True, False, True),
  }
