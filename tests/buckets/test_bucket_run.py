"""A run whose folder and data are in a bucket: killed, resumed, evaluated, and refused in time."""

import dataclasses
import json
import random
import re
import shutil
import time

import pytest
from support.killed_runs import (
  SMALL,
  assert_same_end,
  finish,
  kill,
  start_digits,
  wait_for_line,
)
from support.store import BUCKET

from pst_jax import buckets
from pst_jax.buckets import bucket_path
from pst_jax.errors import UserError
from train.config import Config, DataConfig
from train.data.prepared import open_builder_of
from train.run.folder import RunFolder, open_run
from train.run.metric_files import MetricFiles
from train.tasks.classification.data import open_dataset

SYNTHETIC = DataConfig(dataset="synthetic")


@pytest.mark.slow
def test_a_run_that_is_killed_and_refused_ends_as_one_on_a_disk(tmp_path, shared_store):
  rng = random.Random(0)
  whole, run = tmp_path / "whole", f"gs://{BUCKET}/killed"
  finish(start_digits(tmp_path, whole, options=SMALL))
  files = buckets.filesystem(bucket_path(run, "x"))
  files.put(str(tmp_path / "data"), f"gs://{BUCKET}/data", recursive=True)
  shutil.rmtree(tmp_path / "data")

  def start():
    # The lock of a killed process on this machine is known to be left behind, at once.
    places = {"data_dir": f"gs://{BUCKET}/data", **shared_store.environment()}
    return start_digits(tmp_path, run, options=SMALL, **places)

  for step in (9, 18):
    process = start()
    try:
      wait_for_line(process, RunFolder(run).metrics, f'"step": {step},')
      time.sleep(rng.uniform(0, 0.5))  # the checkpoint of this step is being saved
    finally:
      kill(process)
  process = start()
  try:
    wait_for_line(process, RunFolder(run).metrics, '"step": 27,')
    shared_store.fail(401)  # as with a token that has expired
    _, errors = process.communicate(timeout=300)
  finally:
    process.kill()
    shared_store.rule = lambda method, path: None
  assert process.returncode == 2, errors
  # TensorStore notes that it found no credentials, which the emulator needs none of.
  told = [line for line in errors.splitlines() if "google_auth_provider" not in line]
  # Where it was the data that were refused, a save may have been under way too.
  saves = [line for line in told if line.startswith("WARNING:train.run.checkpoints:Saving")]
  assert all("access was refused" in line for line in saves)
  told = [line for line in told if line not in saves]
  assert len(told) == 1, errors
  (told,) = told
  assert re.match(r"error: .*access was refused.*: sign in", told)
  assert "there is none before it" not in told
  finish(start())
  assert not RunFolder(run).lock.exists()
  files.get(run, str(tmp_path / "copy"), recursive=True)
  files.get(f"gs://{BUCKET}/data", str(tmp_path / "data"), recursive=True)
  assert_same_end(whole, tmp_path / "copy")


def test_a_run_folder_is_made_and_opened_again(folder):
  config = Config(run_dir=folder, data=SYNTHETIC)
  with open_run(config) as run:
    first = run.run_id.read_text()
  with open_run(config) as run:
    assert run.read_config() == config
    assert run.run_id.read_text() == first


def test_metrics_go_on_where_the_checkpoint_was(folder):
  for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
    files = MetricFiles(folder, start)
    for step in steps:
      files.write(step, {"loss": float(start)})
    files.sync()
    files.close()
  lines = RunFolder(folder).metrics.read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
  assert len(list(RunFolder(folder).tensorboard.iterdir())) == 2


def test_metrics_that_cannot_be_written_wait_for_the_checkpoint(folder, store):
  files = MetricFiles(folder, 0)
  files._spool._next = 0.0
  store.fail(503)
  files.write(1, {"loss": 1.0})
  with pytest.raises(UserError, match=r"cannot be written \(the store answers: fault 503"):
    files.sync()
  store.rule = lambda method, path: None
  files.sync()
  files.close()
  assert RunFolder(folder).metrics.read_text() == '{"step": 1, "loss": 1.0}\n'


def test_no_metrics_are_read_where_the_store_refuses(folder, store):
  store.fail(403)
  with pytest.raises(UserError, match=r"access was refused"):
    MetricFiles(folder, 0)


@pytest.mark.parametrize("name", ["s3://bucket/run", "az://bucket/run"])
def test_other_stores_are_no_run_folders(name):
  with pytest.raises(UserError, match=r"run_dir is .*, but only gs:// can be used here.*: mount"):
    RunFolder(name)


def test_data_that_are_not_there_say_how_to_bring_them(folder):
  with pytest.raises(
    UserError, match=r"digits is not in gs://.*copy that there \(gcloud storage cp"
  ):
    open_builder_of(DataConfig(dataset="digits", data_dir=folder))


def test_records_are_read_from_a_bucket(folder, digits_dir):
  files = buckets.filesystem(bucket_path(folder, "x"))
  files.put(str(digits_dir / "digits"), f"{folder}/digits", recursive=True)
  config = DataConfig(dataset="digits", eval_split="test")
  places = str(digits_dir), folder
  here, there = (open_dataset(dataclasses.replace(config, data_dir=place)) for place in places)
  assert there.num_train == here.num_train
  for index in (0, 77):
    one, two = here.train[index], there.train[index]
    assert one["image"] == two["image"]


def test_a_profile_needs_a_disk(folder):
  from train.run.profiling import Profiler

  config = Config(run_dir=folder, data=SYNTHETIC, profile_steps="1:2")
  with pytest.raises(UserError, match=r"profiler writes to a disk only"):
    Profiler(config, 10, RunFolder(folder).profile)
