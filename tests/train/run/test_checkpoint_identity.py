"""Checkpoints know their step and run; what only cannot be read is not taken for corrupt."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from support.saved_states import abstract, data_file, save_steps, small_state, steps_in

from pst_jax.checkpoints import layout, read
from pst_jax.errors import UserError
from train.run import checkpoints
from train.run.checkpoints import Checkpoints, Identity

MINE = Identity("mine", {"seed": 0, "data.mean": (0.5, 0.5)})


def save(folder, steps, identity=MINE, **config):
  extra = {"config": {**identity.config, "run_dir": "a", **config}}
  with Checkpoints(folder, keep_latest=9, identity=identity) as checkpoints:
    for step in steps:
      checkpoints.save(step, small_state(step), extra=extra)


def restore(folder, identity=MINE, step="latest"):
  with Checkpoints(folder, keep_latest=9, identity=identity) as checkpoints:
    return checkpoints.restore(abstract(small_state(0)), step)


def set_aside(folder) -> list[str]:
  return sorted(x.name for x in (folder / "damaged").iterdir())


# Step, run and config


def test_a_renamed_checkpoint_is_named_and_passed_over(tmp_path, caplog):
  save(tmp_path, [1, 2])
  (tmp_path / "2").rename(tmp_path / "3")
  assert restore(tmp_path).step == 1
  assert "step 3 (it is the checkpoint of step 2)" in caplog.text
  assert set_aside(tmp_path) == ["3"]


def test_swapped_checkpoints_are_both_refused(tmp_path):
  save(tmp_path, [1, 2])
  for old, new in (("1", "x"), ("2", "1"), ("x", "2")):
    (tmp_path / old).rename(tmp_path / new)
  with pytest.raises(UserError, match=r"step 2 \(it is the .* step 1\), step 1 \(it is the"):
    restore(tmp_path)
  assert steps_in(tmp_path) == [1, 2]


def test_a_copied_checkpoint_does_not_hide_its_original(tmp_path):
  save(tmp_path, [1, 2])
  shutil.copytree(tmp_path / "2", tmp_path / "90")
  assert restore(tmp_path).step == 2


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path, caplog):
  save(tmp_path / "a", [1])
  save(tmp_path / "b", [2], Identity("theirs", MINE.config))
  (tmp_path / "b" / "2").rename(tmp_path / "a" / "2")
  assert restore(tmp_path / "a").step == 1
  assert "step 2 (it is of another run)" in caplog.text


def test_a_checkpoint_of_another_config_is_passed_over(tmp_path, caplog):
  save(tmp_path, [1])
  save(tmp_path, [2], seed=7)
  assert restore(tmp_path).step == 1
  assert "step 2 (it is of another config: seed is 7 in it)" in caplog.text


def test_options_that_may_change_do_not_matter(tmp_path):
  save(tmp_path, [1], run_dir="elsewhere")
  assert restore(tmp_path).step == 1


def first_version(folder, step):
  """The record as the first version of this project wrote it."""
  file = folder / str(step) / "record" / "metadata"
  record = json.loads(file.read_text())
  for name in ("step", "run", "best", "sha256"):
    del record[name]
  file.write_text(json.dumps(layout.sealed(record)))


def test_records_of_the_first_version_are_read_and_their_config_is_compared(tmp_path):
  save(tmp_path, [1])
  save(tmp_path, [2], seed=7)
  for step in (1, 2):
    first_version(tmp_path, step)
  assert restore(tmp_path).step == 1


def test_the_best_of_the_first_version_is_the_highest_top1(tmp_path):
  with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
    for step, top1 in {1: 0.9, 2: 0.5}.items():
      checkpoints.save(step, small_state(step), metrics={"top1": top1}, extra={})
  for step in (1, 2):
    first_version(tmp_path, step)
  assert restore(tmp_path, step="best").step == 1


# Records that are JSON, and no records


def sealed_without(*names):
  def change(file):
    record = json.loads(file.read_text())
    del record["sha256"]
    file.write_text(json.dumps(layout.sealed({k: v for k, v in record.items() if k not in names})))

  return change


RECORDS = {
  "a list": lambda file: file.write_text("[1]"),
  "nested": lambda file: file.write_text("[" * 100_000),
  "no text": lambda file: file.write_bytes(b"\xff\xfe"),
  "without leaves": sealed_without("leaves"),
  "without metrics": sealed_without("metrics"),
  "without extra": sealed_without("extra"),
}


@pytest.mark.parametrize("change", RECORDS)
def test_a_record_that_cannot_be_is_passed_over(tmp_path, change):
  save_steps(tmp_path, [1, 2])
  RECORDS[change](tmp_path / "2" / "record" / "metadata")
  assert restore(tmp_path, Identity()).step == 1


# Names that are no step


@pytest.mark.parametrize("name", ["045", "٤٥", "45 ", "1e3", "9" * 30, "+45"])
def test_a_folder_that_only_looks_like_a_step_is_left_alone(tmp_path, name):
  save_steps(tmp_path, [1])
  shutil.copytree(tmp_path / "1", tmp_path / name)
  assert layout.saved_steps(tmp_path) == [1]
  assert restore(tmp_path, Identity()).step == 1
  save_steps(tmp_path, [2])
  assert (tmp_path / name).is_dir()


def test_a_file_called_damaged_does_not_stop_the_run(tmp_path):
  save_steps(tmp_path, [1, 2])
  (tmp_path / "damaged").write_text("a note")
  (tmp_path / "2" / "record" / "metadata").unlink()
  assert restore(tmp_path, Identity()).step == 1
  assert (tmp_path / "damaged").read_text() == "a note"
  assert (tmp_path / "damaged.1" / "2").is_dir()


def test_an_unfinished_checkpoint_may_be_a_file_or_a_link(tmp_path):
  save_steps(tmp_path / "a", [1])
  kept = tmp_path / "kept"
  kept.mkdir()
  (kept / "mine").write_text("mine")
  (tmp_path / "a" / "2.orbax-checkpoint-tmp-1").write_text("")
  (tmp_path / "a" / "3.orbax-checkpoint-tmp-2").symlink_to(kept)
  assert restore(tmp_path / "a", Identity()).step == 1
  assert sorted(x.name for x in (tmp_path / "a").iterdir()) == ["1"]
  assert (kept / "mine").read_text() == "mine"


def test_a_corrupt_checkpoint_that_cannot_be_moved_is_one_sentence(tmp_path, monkeypatch):
  save_steps(tmp_path, [1, 2])
  (tmp_path / "2" / "record" / "metadata").unlink()

  def rename(path, target):
    raise PermissionError(1, "Operation not permitted")

  monkeypatch.setattr(pathlib.Path, "rename", rename)
  with pytest.raises(UserError, match=r"/2 cannot be used, and cannot be moved .*not permitted"):
    restore(tmp_path, Identity())


# Reading that fails says nothing of what is on the disk


@pytest.mark.parametrize("number", [5, 12, 13, 24, 116])
def test_a_record_that_cannot_be_read_is_no_corrupt_one(tmp_path, monkeypatch, number):
  save_steps(tmp_path, [1, 2])
  read_bytes = pathlib.Path.read_bytes

  def fail(path):
    if "2" in path.parts:
      raise OSError(number, os.strerror(number), str(path))
    return read_bytes(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
  with pytest.raises(UserError, match=rf"step 2 .* cannot be read \({os.strerror(number)}\)"):
    restore(tmp_path, Identity())
  assert steps_in(tmp_path) == [1, 2]


def test_arrays_that_may_not_be_read_are_no_corrupt_ones(tmp_path, monkeypatch):
  save_steps(tmp_path, [1, 2])
  restore = read.ocp.PyTreeCheckpointHandler.restore

  def fail(handler, path, **options):
    if "2" in pathlib.Path(path).parts:
      raise ValueError("PERMISSION_DENIED: reading [os_error_code='13' a='b']")
    return restore(handler, path, **options)

  monkeypatch.setattr(read.ocp.PyTreeCheckpointHandler, "restore", fail)
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(UserError, match=r"step 2 .* cannot be read \(Permission denied\)"),
  ):
    checkpoints.restore(abstract(small_state(0)))
  assert steps_in(tmp_path) == [1, 2]


AS_A_USER = """
import os, sys
sys.path[:0] = ["tests", "."]
import jax
from support.saved_states import abstract, small_state
from pst_jax.errors import run_command
from train.run.checkpoints import restore

def main(arguments):
  wanted = abstract(small_state(0, 1))
  os.setgid(65534)
  os.setuid(65534)
  print(restore(arguments[0], wanted).step)

run_command(main, sys.argv[1:])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("part", ["folder", "arrays"])
def test_what_another_user_may_not_read_is_one_sentence(part):
  # Not in pytest's own folder, which other users may not enter.
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    path.chmod(0o755)
    save_steps(path, [1, 2])
    (path / "2" if part == "folder" else data_file(path, 2)).chmod(0)
    done = subprocess.run(
      [sys.executable, "-c", AS_A_USER, folder], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"step 2 in {folder} cannot be read (Permission denied)" in done.stderr
    assert done.stderr.count("\n") == 1


# Beside a run that goes on


def test_a_checkpoint_that_vanishes_while_it_is_read_is_no_corrupt_one(
  tmp_path, monkeypatch, caplog
):
  save_steps(tmp_path, [1, 2])
  (tmp_path / "2").rename(tmp_path / "soon")
  read_record = layout.read_record

  def replaced(directory, step):
    if step == 1:  # the run beside saves the next one, and deletes this one
      (directory / "soon").rename(directory / "2")
      shutil.rmtree(directory / "1")
    return read_record(directory, step)

  monkeypatch.setattr(layout, "read_record", replaced)
  assert checkpoints.restore(tmp_path, abstract(small_state(0))).step == 2
  assert not caplog.records
