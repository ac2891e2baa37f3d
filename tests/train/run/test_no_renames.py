"""Where no folder can be renamed, as on a flat bucket that is mounted with gcsfuse, and no file."""

import errno
import os
import pathlib
import random
import shutil
import time

import pytest
from support import faults
from support.killed_runs import (
  SMALL,
  assert_same_end,
  finish,
  kill,
  start_digits,
  wait_for_step,
)
from support.saved_states import abstract, same_bits, save_steps, small_state, steps_in
from support.tiny_weights import weights

from pst_jax import folders, overwrite
from pst_jax.checkpoints import layout
from pst_jax.checkpoints.verify import verify_all
from pst_jax.convert.formats.orbax_folder import write_folder
from pst_jax.convert.io import read
from pst_jax.errors import UserError
from pst_jax.files import write_output
from train.run.checkpoints import Checkpoints

NO_RENAMES = pathlib.Path(faults.__file__).with_name("no_renames.py")


@pytest.fixture
def no_renames(monkeypatch, request):
  def refusing(rename):
    def refuse(source, target, **options):
      if getattr(request, "param", "folders") == "files" or os.path.isdir(source):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
      return rename(source, target, **options)

    return refuse

  for name in ("rename", "replace"):
    monkeypatch.setattr(os, name, refusing(getattr(os, name)))
  monkeypatch.setattr(folders, "_exchange", lambda one, two: False)


def test_a_checkpoint_is_saved_and_restored(tmp_path, no_renames):
  save_steps(tmp_path, [1, 2])
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(abstract(small_state(1)))
  assert restored.step == 2
  assert same_bits(restored.state, small_state(2))
  assert [verdict.problem for verdict in verify_all(tmp_path)] == [None, None]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path, no_renames):
  save_steps(tmp_path, [1, 2])
  layout.marker(tmp_path / "2").touch()
  (tmp_path / "2" / layout.COMMITTED).unlink()
  assert layout.saved_steps(tmp_path) == [1]
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step == 1
    assert checkpoints.restore(abstract(small_state(1))).step == 1
    checkpoints.save(2, small_state(2), extra={})
  assert steps_in(tmp_path) == [1, 2]
  assert same_bits(Checkpoints(tmp_path).restore(abstract(small_state(2))).state, small_state(2))


def test_a_marker_beside_a_committed_checkpoint_says_nothing(tmp_path, no_renames):
  save_steps(tmp_path, [1, 2])
  layout.marker(tmp_path / "2").touch()
  assert layout.saved_steps(tmp_path) == [1, 2]
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(small_state(1))).step == 2
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_checkpoints_without_a_commit_file_go_on_where_nothing_can_be_renamed(
  tmp_path, monkeypatch, request
):
  save_steps(tmp_path, [1, 2])
  for step in (1, 2):  # as Orbax once wrote them
    (tmp_path / str(step) / layout.COMMITTED).unlink()
  request.getfixturevalue("no_renames")
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(small_state(1))).step == 2
    checkpoints.save(3, small_state(3), extra={})
  assert steps_in(tmp_path) == [2, 3]


def test_checkpoints_of_both_kinds_go_on_where_folders_can_be_renamed(tmp_path, request):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(layout, "can_rename", lambda directory: False)
    save_steps(tmp_path, [1, 2])
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(small_state(1))).step == 2
    checkpoints.save(3, small_state(3), extra={})
  assert steps_in(tmp_path) == [2, 3]
  assert [verdict.problem for verdict in verify_all(tmp_path)] == [None, None]


def test_a_corrupt_checkpoint_is_set_aside(tmp_path, no_renames):
  save_steps(tmp_path, [1, 2])
  shutil.rmtree(tmp_path / "2" / "state")
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(small_state(1))).step == 1
  assert steps_in(tmp_path) == [1]
  assert (tmp_path / "damaged" / "2" / "record" / "metadata").is_file()


def test_another_failure_of_the_probe_is_told_before_training(tmp_path, monkeypatch):
  def refuse(*arguments, **options):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(os, "rename", refuse)
  with pytest.raises(UserError, match=r"cannot be written \(Input/output error\); choose another"):
    Checkpoints(tmp_path)
  assert not list(tmp_path.iterdir())


files_too = pytest.mark.parametrize("no_renames", ["files"], indirect=True)


@files_too
def test_training_is_refused_where_no_file_can_be_renamed(tmp_path, no_renames):
  with pytest.raises(UserError, match=r"no file can be renamed in .* choose a run_dir on a disk"):
    Checkpoints(tmp_path)
  assert not list(tmp_path.iterdir())


@files_too
def test_a_file_is_replaced(tmp_path, no_renames):
  for content in (b"old and long", b"new"):
    write_output(tmp_path / "config.json", content, force=True)
  assert (tmp_path / "config.json").read_bytes() == b"new"
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@files_too
def test_a_file_whose_replacement_was_cut_is_whole_again(tmp_path, no_renames, monkeypatch):
  path = tmp_path / "config.json"
  path.write_bytes(b"old")
  write = overwrite._write

  def cut(target, content):
    write(target, content[:1] if target == path else content)
    if target == path:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(overwrite, "_write", cut)
  with pytest.raises(UserError, match="could not be written"):
    write_output(path, b"new", force=True)
  assert path.read_bytes() == b"n"
  monkeypatch.setattr(overwrite, "_write", write)
  overwrite.recover_file(path)
  assert path.read_bytes() == b"new"
  assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


def test_half_a_note_touches_nothing(tmp_path):
  (tmp_path / "config.json").write_bytes(b"old")
  for note in ("", ".pst_jax-12"):
    (tmp_path / ".config.json.pst_jax-pending").write_text(note)
    overwrite.recover_file(tmp_path / "config.json")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_folder_of_weights_is_written_but_not_replaced(tmp_path, no_renames):
  new = weights()
  write_folder(tmp_path / "w", new.variables, new.metadata)
  assert read(tmp_path / "w").metadata.model == new.metadata.model
  with pytest.raises(UserError, match=r"cannot be renamed here.*: delete it first"):
    write_folder(tmp_path / "w", new.variables, new.metadata, force=True)
  assert read(tmp_path / "w").metadata.model == new.metadata.model


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_on_a_usual_disk(tmp_path):
  library = faults.build(tmp_path)
  if library is None:
    pytest.skip("there is no C compiler here, or this is no Linux")
  rng = random.Random(0)
  whole, killed = tmp_path / "whole", tmp_path / "bucket" / "killed"
  finish(start_digits(tmp_path, whole, options=SMALL))

  def start():
    program = (str(NO_RENAMES), str(tmp_path / "bucket"))
    return start_digits(tmp_path, killed, program, LD_PRELOAD=str(library), options=SMALL)

  for step in (rng.randrange(12, 18), rng.randrange(22, 26)):
    process = start()
    try:
      wait_for_step(process, killed, step)
      time.sleep(rng.uniform(0, 0.1))
    finally:
      kill(process)
  finish(start())
  assert_same_end(whole, killed)
