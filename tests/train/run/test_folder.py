"""What stops a run before it begins: folders, disks, another config, another trainer."""

import dataclasses
import os
import re
import shutil
import types

import jax
import pytest

from pst_jax.errors import UserError
from train import loop
from train.config import CheckpointConfig, Config, DataConfig, OptimConfig
from train.run.folder import open_run

SAVES = 7
CONFIG = Config(data=DataConfig(dataset="synthetic"))


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
  """A setup that has nothing to compute with: a run that begins fails."""

  def make(config, *arguments):
    state = {"x": jax.ShapeDtypeStruct((10**6,), "float32")}
    return types.SimpleNamespace(
      config=config, abstract_state=state, total_steps=100, saves=SAVES, mesh=None
    )

  monkeypatch.setattr(loop, "make_setup", make)


def config_in(folder, **fields) -> Config:
  return dataclasses.replace(CONFIG, run_dir=str(folder), **fields)


def error_of(config) -> str:
  with pytest.raises(UserError) as error:
    loop.train(config)
  return str(error.value)


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  for name in ("file", "file/run"):
    error = error_of(config_in(tmp_path / name))
    assert f"run_dir {tmp_path / name} cannot be written" in error
    assert "choose another --run-dir" in error


def test_a_folder_where_nothing_can_be_made_is_refused():
  assert "run_dir /proc/run cannot be written" in error_of(config_in("/proc/run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
  tmp_path.chmod(0o500)
  assert "cannot be written (Permission denied)" in error_of(config_in(tmp_path))


def test_another_config_in_the_folder_is_refused_with_the_difference(tmp_path):
  with open_run(config_in(tmp_path)):
    pass
  before = (tmp_path / "config.json").read_text()
  error = error_of(config_in(tmp_path, seed=1, optim=OptimConfig(learning_rate=0.5)))
  assert "holds a run with another config (seed: 0 -> 1; optim.learning_rate: 0.1 -> 0.5):" in error
  assert (tmp_path / "config.json").read_text() == before


def test_a_second_trainer_in_the_folder_is_refused(tmp_path):
  with open_run(config_in(tmp_path)):
    assert f"another process is training in {tmp_path}: stop it" in error_of(config_in(tmp_path))
  with open_run(config_in(tmp_path)):
    pass


def test_a_disk_that_is_nearly_full_is_found_before_training(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  error = error_of(config_in(tmp_path))
  # Two latest checkpoints, the best one and the one being written.
  assert re.search(r"checkpoints need 0\.016 GB in .*, and 0\.001 GB are free; free some", error)


def test_the_advice_to_keep_fewer_checkpoints_can_be_followed_and_is_noted(tmp_path):
  for keep_latest in (2, 1):
    kept = CheckpointConfig(keep_latest=keep_latest)
    with open_run(config_in(tmp_path, checkpoint=kept)) as folder:
      assert folder.read_config().checkpoint == kept


def test_checkpoints_without_a_config_are_not_taken_for_a_new_run(tmp_path):
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  error = error_of(config_in(tmp_path, seed=1))
  assert "holds checkpoints, but the config.json that says what run they are of is gone" in error
  assert not (tmp_path / "config.json").exists()


def test_a_run_gets_an_identity_and_keeps_it(tmp_path):
  identities = []
  for path in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
    with open_run(config_in(path)) as folder:
      identities.append(folder.identity(config_in(path)))
  assert identities[0] == identities[1] != identities[2]
  assert identities[0].config["seed"] == 0
  assert "run_dir" not in identities[0].config


def test_a_config_that_is_nested_without_end_is_one_sentence(tmp_path):
  (tmp_path / "config.json").write_text("[" * 100_000)
  assert f"{tmp_path}/config.json cannot be used" in error_of(config_in(tmp_path))


def test_an_identity_that_is_gone_is_that_of_the_checkpoints(tmp_path, monkeypatch):
  """With another one, all of them would be passed over."""
  with open_run(config_in(tmp_path)) as folder:
    run = folder.identity(config_in(tmp_path)).run
  (tmp_path / "run_id").unlink()
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  monkeypatch.setattr("train.run.folder.saved_steps", lambda _: [5])
  monkeypatch.setattr("train.run.folder.read_record", lambda *_: {"run": run})
  with open_run(config_in(tmp_path)) as folder:
    assert folder.identity(config_in(tmp_path)).run == run
