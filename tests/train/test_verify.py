"""python -m train.verify reads every checkpoint whole; read_back does so after each save."""

import shutil

import numpy as np
import pytest
from support.saved_states import (
  abstract,
  data_file,
  flip_bit,
  random_bits,
  same_bits,
  save_steps,
  small_state,
  steps_in,
)

from pst_jax.checkpoints import layout, read, verify
from pst_jax.errors import UserError
from train.config import Config
from train.config_values import to_json
from train.run.checkpoints import Checkpoints, Identity
from train.verify import main
from train.verify import verify as verify_run


@pytest.fixture
def run(tmp_path):
  """The folder of a run with checkpoints of steps 1, 2 and 3."""
  (tmp_path / "config.json").write_text(to_json(Config(run_dir=str(tmp_path))))
  save_steps(tmp_path / "checkpoints", [1, 2, 3], keep_latest=9)
  return tmp_path


def test_good_checkpoints_are_listed_with_their_size(run, capsys):
  verify_run(run)
  lines = [f"step {step}: good, 3 arrays of 0.0 MB" for step in (1, 2, 3)]
  assert capsys.readouterr().out.splitlines() == lines


def test_one_that_is_not_good_is_named_and_nothing_is_moved(run, capsys):
  flip_bit(data_file(run / "checkpoints", 2))
  with pytest.raises(UserError, match=r"^1 of 3 checkpoints in .* \(of step 2\)"):
    verify_run(run)
  good, wrong, _ = capsys.readouterr().out.splitlines()
  assert good.startswith("step 1: good")
  assert wrong.startswith("step 2: ")
  assert steps_in(run / "checkpoints") == [1, 2, 3]


def test_a_swapped_checkpoint_is_not_good(run):
  (run / "checkpoints" / "3").rename(run / "checkpoints" / "4")
  with pytest.raises(UserError, match="of step 4"):
    verify_run(run)


def test_a_checkpoint_of_another_run_is_not_good(run):
  (run / "run_id").write_text("mine\n")
  with Checkpoints(run / "checkpoints", keep_latest=9, identity=Identity("theirs")) as checkpoints:
    checkpoints.save(4, small_state(4), extra={})
  with pytest.raises(UserError, match="of step 4"):
    verify_run(run)


def test_wide_types_are_compared_as_they_were_saved(tmp_path):
  import jax

  with jax.enable_x64(True), Checkpoints(tmp_path) as checkpoints:
    state = jax.device_put({"x": random_bits("float64"), "y": np.int64(2**40)})
    checkpoints.save(1, state, extra={})
  assert [x.problem for x in verify.verify_all(tmp_path)] == [None]


def test_what_is_larger_than_a_part_is_read_in_parts(run, monkeypatch):
  monkeypatch.setattr(verify, "_GROUP_BYTES", 16)
  flip_bit(data_file(run / "checkpoints", 2))
  found = {x.step: x.problem for x in verify.verify_all(run / "checkpoints")}
  assert (found[1], found[3]) == (None, None)
  assert found[2]


def test_a_checkpoint_that_the_run_deletes_meanwhile_is_left_out(run, monkeypatch):
  read_record = layout.read_record

  def deleted(directory, step):
    if step == 1:
      shutil.rmtree(directory / "1", ignore_errors=True)
      save_steps(directory, [4], keep_latest=9)
    return read_record(directory, step)

  monkeypatch.setattr(layout, "read_record", deleted)
  monkeypatch.setattr(verify, "_PATIENCE_SECONDS", 0)
  found = [(x.step, x.problem) for x in verify.verify_all(run / "checkpoints")]
  assert found == [(2, None), (3, None), (4, None)]


def test_what_cannot_be_read_is_not_good(run, monkeypatch, capsys):
  def fail(*_, **__):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr(read.ocp.PyTreeCheckpointHandler, "restore", fail)
  monkeypatch.setattr(verify, "_PATIENCE_SECONDS", 0)
  with pytest.raises(UserError, match="3 of 3"):
    verify_run(run)
  assert "cannot be read (Input/output error)" in capsys.readouterr().out


@pytest.mark.parametrize("has_config", [True, False])
def test_a_folder_without_checkpoints_is_a_mistake(tmp_path, has_config):
  if has_config:
    (tmp_path / "config.json").write_text(to_json(Config()))
  message = "there is no checkpoint yet" if has_config else "is no run folder"
  with pytest.raises(UserError, match=message):
    main([str(tmp_path)])


# read_back


def test_what_is_read_back_well_is_kept_and_the_one_before_goes(tmp_path):
  save_steps(tmp_path, [1, 2, 3], keep_latest=1, read_back=True)
  # The one before is deleted when the next is begun, not at its end.
  assert steps_in(tmp_path) == [2, 3]


def test_a_checkpoint_that_is_not_what_was_saved_ends_the_run_and_the_one_before_stays(
  tmp_path, monkeypatch
):
  states = {step: small_state(step) for step in (1, 2)}
  with Checkpoints(tmp_path, keep_latest=1, read_back=True) as checkpoints:
    checkpoints.save(1, states[1], extra={})
    wait = checkpoints.wait

    def wait_and_spoil():
      wait()
      flip_bit(data_file(tmp_path, 2))

    monkeypatch.setattr(checkpoints, "wait", wait_and_spoil)
    with pytest.raises(UserError, match=r"step 2 .* not what was saved .*good one is step 1"):
      checkpoints.save(2, states[2], extra={})
  with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
    restored = checkpoints.restore(abstract(states[1]))
  assert restored.step == 1
  assert same_bits(restored.state, states[1])


def test_what_a_resumed_run_goes_on_from_stays_until_a_newer_one_is_proven(tmp_path):
  save_steps(tmp_path, [1], keep_latest=1)
  with Checkpoints(tmp_path, keep_latest=1, read_back=True) as checkpoints:
    checkpoints.restore(abstract(small_state(1)))
    checkpoints.save(2, small_state(2), extra={})
    assert steps_in(tmp_path) == [1, 2]
    checkpoints.save(3, small_state(3), extra={})
    assert steps_in(tmp_path) == [2, 3]
