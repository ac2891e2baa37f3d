"""What a process finds other than process 0 is said before it waits in vain."""

import dataclasses

import jax
import numpy as np
import pytest

from pst_jax.errors import UserError
from train.config import Config, DataConfig
from train.config_values import to_json
from train.processes import consistency as agreement
from train.run.folder import open_run
from train.tasks.classification.data import open_dataset

CONFIG = Config(
  batch_size=8, data=DataConfig(dataset="synthetic", synthetic_examples=16, synthetic_classes=10)
)


@pytest.fixture
def second(tmp_path, monkeypatch):
  """(fields of its config, what process 0 says otherwise) -> the check of process 1 of two."""
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "run"))

  def check(fields, said):
    mine = dataclasses.replace(config, **fields)
    with open_run(config) as folder:
      first = {"config": to_json(config), "images": [16, 16, 10], "lock": folder.lock.read_text()}
      monkeypatch.setattr(agreement, "from_first", lambda mine: first | said)
      agreement.require_same_run(mine, open_dataset(mine.data))
      monkeypatch.setattr(agreement, "from_first", lambda mine: (first | said)["lock"])
      agreement.require_same_folder(folder)

  return check


def test_the_same_command_passes_and_so_do_fields_that_may_differ(second):
  second({}, {})
  second({"data": dataclasses.replace(CONFIG.data, threads=3)}, {})


@pytest.mark.parametrize(
  ("fields", "said", "message"),
  [
    ({"batch_size": 16}, {}, r"process 1 was given another config .* \(batch_size: 8 -> 16\)"),
    ({}, {"images": [16, 12, 10]}, r"process 1 finds \[16, 16, 10\] .* 0 finds \[16, 12, 10\]"),
    ({"check_replicas_every": 5}, {}, r"\(check_replicas_every: 0 -> 5\)"),
    ({"eval_batch_size": 3}, {}, r"\(eval_batch_size: 256 -> 3\)"),
    ({}, {"lock": "of another folder"}, "of process 1 is not the folder of process 0"),
  ],
)
def test_what_differs_is_named(second, fields, said, message):
  with pytest.raises(UserError, match=message):
    second(fields, said)


def test_weights_that_another_process_reads_otherwise_are_refused(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  values = {"params/a": np.arange(3.0), "params/b": np.ones((2, 2), np.float16)}
  said = []
  monkeypatch.setattr(agreement, "from_first", lambda mine: said.append(mine) or said[0])
  agreement.require_same_weights(values, "hub")
  agreement.require_same_weights(dict(reversed(values.items())), "hub")
  with pytest.raises(UserError, match="process 1 finds other weights in hub than process 0"):
    agreement.require_same_weights(values | {"params/a": np.arange(3.0) + 1}, "hub")


def test_every_start_marks_its_folder_anew(tmp_path):
  marks = []
  for _ in range(2):
    with open_run(dataclasses.replace(CONFIG, run_dir=str(tmp_path))) as folder:
      marks.append(folder.lock.read_text())
  assert len({*marks, ""}) == 3
