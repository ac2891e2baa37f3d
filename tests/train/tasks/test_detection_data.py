import dataclasses
import functools
import logging
import subprocess
import sys

import numpy as np
import pytest
from support import box_files
from support.boxes_made import random_records

from pst_jax.errors import UserError
from train.data import eval_batches, train_batches
from train.data.sources import Dataset
from train.prepare import main as prepare
from train.tasks.detection.config import DataConfig
from train.tasks.detection.data import (
  eval_example,
  example,
  from_words,
  open_dataset,
  padding,
  train_example,
)

CONFIG = DataConfig(
  dataset="pets",
  eval_split="test",
  image_size=64,
  max_boxes=64,
  mixup=0.5,
  copy_paste=0.5,
  threads=2,
)
RECORDS = random_records(10, outlines=True)
FIRST_CLOSED = 30


def dataset(records=RECORDS, config=CONFIG):
  from pst_jax.preprocessing import decode_upright

  return Dataset(
    train=records,
    eval=records,
    num_classes=4,
    class_names=None,
    training_example=functools.partial(train_example, config, FIRST_CLOSED),
    evaluation_example=functools.partial(eval_example, config),
    padding=padding(config),
    decode=decode_upright,
  )


def batches(count, first_step=0, config=CONFIG, records=RECORDS, **hosts):
  stream = train_batches(
    dataset(records, config), config, seed=3, batch_size=8, first_step=first_step, **hosts
  )
  found = [next(stream) for _ in range(count)]
  stream.close()
  return found


def assert_equal(one, two):
  assert one.keys() == two.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], two[key])


def test_batches_are_the_same_for_any_number_of_hosts_across_the_closing_of_the_mosaic():
  alone = batches(6)  # of 48 examples, the mosaic is closed from 30 on
  for count in (2, 4):
    parts = [batches(6, host_index=index, host_count=count) for index in range(count)]
    for whole, *each in zip(alone, *parts, strict=True):
      assert_equal(whole, {key: np.concatenate([part[key] for part in each]) for key in whole})


def test_a_run_goes_on_with_the_same_batches_wherever_it_stopped():
  alone = batches(6)
  for step in range(1, 6):
    assert_equal(batches(1, first_step=step)[0], alone[step])


@pytest.mark.slow
def test_worker_processes_make_the_same_batches():
  config = dataclasses.replace(CONFIG, workers=2)
  for one, two in zip(batches(5), batches(5, config=config), strict=True):
    assert_equal(one, two)


def test_the_mosaic_is_closed_at_a_position_of_the_stream():
  open_ended = dataclasses.replace(CONFIG, mosaic=1, mixup=0, copy_paste=0)
  closed = dataclasses.replace(open_ended, mosaic=0)
  positions = np.arange(48).reshape(6, 8)
  for where, one, two in zip(
    positions, batches(6, config=open_ended), batches(6, config=closed), strict=True
  ):
    is_equal = (one["image"] == two["image"]).all(axis=(1, 2, 3))
    assert is_equal[where >= FIRST_CLOSED].all() and not is_equal[where < FIRST_CLOSED].any()


def test_a_batch_holds_what_the_task_declares():
  (batch,) = batches(1)
  assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
    key: ((8, *entry.shape), entry.dtype) for key, entry in example(CONFIG).items()
  }


def test_every_image_is_evaluated_once_on_any_number_of_hosts():
  for count in (1, 2):
    ids = []
    for host in range(count):
      for batch in eval_batches(dataset(), CONFIG, batch_size=4, host_index=host, host_count=count):
        ids += from_words(batch["image_id"], np.int64)[batch["mask"]].tolist()
    assert sorted(ids) == list(range(10))


def damaged():
  return [*RECORDS[:4], RECORDS[4] | {"image": RECORDS[4]["image"][:-40]}, *RECORDS[5:]]


def test_a_damaged_image_ends_the_run_with_what_to_do():
  with pytest.raises(UserError, match=r"record 4 is damaged.*--data.on-bad-image skip"):
    batches(6, records=damaged())


def test_a_damaged_image_is_replaced_and_named_in_the_log(caplog):
  config = dataclasses.replace(CONFIG, on_bad_image="skip")
  with caplog.at_level(logging.WARNING):
    batches(6, config=config, records=damaged())
  assert any("record 4 is damaged" in record.message for record in caplog.records)


def test_a_damaged_image_is_left_out_of_the_evaluation():
  config = dataclasses.replace(CONFIG, on_bad_image="skip")
  ids = [
    identity
    for batch in eval_batches(dataset(damaged(), config), config, batch_size=4)
    for identity in from_words(batch["image_id"], np.int64)[batch["mask"]]
  ]
  assert sorted(ids) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_prepared_data_set_is_opened_with_its_classes(tmp_path):
  root = box_files.write_voc(tmp_path / "voc")
  prepare(["voc", "--source", str(root), "--name", "pets", "--data-dir", str(tmp_path)])
  config = dataclasses.replace(CONFIG, data_dir=str(tmp_path), close_mosaic_epochs=2.0)
  opened = open_dataset(config, epochs=5)
  assert (opened.class_names, opened.num_train, opened.num_eval) == (box_files.CLASSES, 4, 2)
  assert opened.training_example.args[1] == 12
  boxes = next(eval_batches(opened, config, batch_size=2))
  assert boxes["valid"].sum() == len(box_files.boxes_of(4)) + len(box_files.boxes_of(5))


def test_a_data_set_without_boxes_is_named(tmp_path):
  config = dataclasses.replace(CONFIG, dataset="digits", data_dir=str(tmp_path))
  with pytest.raises(UserError, match=r"dataset digits has the features .*`objects`"):
    open_dataset(config, epochs=1)


def test_worker_processes_need_no_jax():
  code = "import sys, train.tasks.detection.data; sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_coco_that_is_not_there_is_said_how_to_prepare(tmp_path):
  config = dataclasses.replace(CONFIG, dataset="coco2017", data_dir=str(tmp_path))
  with pytest.raises(UserError, match=r"coco2017 is not in .*train.prepare coco --manual-dir"):
    open_dataset(config, epochs=1)
