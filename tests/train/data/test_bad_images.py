import dataclasses
import itertools
import logging
import shutil

import numpy as np
import pytest

from pst_jax.errors import UserError
from train.data import bad_images as damage
from train.data import eval_batches, train_batches
from train.data.sources import TfdsRecords
from train.tasks.classification.data import open_dataset


def spoil(dataset, *indices):
  for index in indices:
    record = dataset.train[index]
    dataset.train[index] = record | {"image": record["image"][:-30]}


def training_labels(dataset, config, *, steps=6, first_step=0, host_count=1):
  """Labels of the global batches of 4, [steps, 4]."""
  hosts = []
  for host in range(host_count):
    batches = train_batches(
      dataset,
      config,
      seed=0,
      batch_size=4,
      first_step=first_step,
      host_index=host,
      host_count=host_count,
    )
    hosts.append([batch["label"] for batch in itertools.islice(batches, steps)])
    batches.close()
  return np.concatenate(hosts, axis=1)


@pytest.fixture
def damaged(numbered):
  """12 images whose label is their index, of which 3, 4 and 11 are damaged; config skips."""
  whole, _ = numbered(12)
  dataset, config = numbered(12, on_bad_image="skip")
  spoil(dataset, 3, 4, 11)
  return whole, dataset, config


@pytest.mark.parametrize(
  ("said", "reason"),
  [
    (
      'Permanent error, with a last message of {"error": {"code": 401, "message": "gone"}}; reading'
      " gs://bucket/a",
      r"access was refused \(401\): sign in .*mend that",
    ),
    ("Retry policy exhausted in Read(): 503", "the store answers: Retry policy exhausted"),
  ],
)
def test_a_store_that_refuses_is_no_damaged_image(numbered, said, reason):
  """Which another one would stand in for, so that the run were not the same."""

  class Refused(list):
    def __getitem__(self, index):
      raise RuntimeError(said)

  _, config = numbered(3, on_bad_image="skip")
  records = damage.GoodRecords(TfdsRecords(Refused(range(3)), "train", dict), config)
  with pytest.raises(UserError, match=reason):
    records[0]


def test_the_next_good_image_takes_the_place_of_a_damaged_one(damaged):
  whole, dataset, config = damaged
  expected = training_labels(whole, config)
  for bad, good in ((3, 5), (4, 5), (11, 0)):
    expected[expected == bad] = good
  np.testing.assert_array_equal(training_labels(dataset, config), expected)


def test_images_stay_with_their_labels(damaged):
  _, dataset, config = damaged
  batches = train_batches(dataset, config, seed=0, batch_size=12, first_step=0)
  batch = next(batches)
  batches.close()
  assert set(batch) == {"image", "label"}
  np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 8}, {"workers": 1}])
def test_threads_and_workers_do_not_change_the_replaced_stream(damaged, options):
  _, dataset, config = damaged
  other = dataclasses.replace(config, **options)
  np.testing.assert_array_equal(training_labels(dataset, other), training_labels(dataset, config))


def test_hosts_and_restarts_do_not_change_the_replaced_stream(damaged):
  _, dataset, config = damaged
  expected = training_labels(dataset, config)
  np.testing.assert_array_equal(training_labels(dataset, config, host_count=2), expected)
  resumed = training_labels(dataset, config, first_step=4, steps=2)
  np.testing.assert_array_equal(resumed, expected[4:])


def test_augmentation_of_whole_images_is_that_of_the_undamaged_stream(damaged):
  whole, dataset, config = damaged
  config = dataclasses.replace(config, color_jitter=(0.5, 0.0, 0.0, 0.0))
  one, other = (
    next(train_batches(each, config, seed=0, batch_size=12, first_step=0))
    for each in (whole, dataset)
  )
  kept = one["label"] == other["label"]
  assert kept.sum() == 9
  np.testing.assert_array_equal(one["image"][kept], other["image"][kept])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_once_and_all_are_counted(damaged, caplog, workers):
  _, dataset, config = damaged
  config = dataclasses.replace(config, workers=workers)
  with caplog.at_level(logging.WARNING):
    training_labels(dataset, config, steps=6)  # two epochs
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 4
  for number in (3, 4, 11):
    (message,) = [m for m in messages if m.startswith(f"the image of record {number} is damaged")]
    assert "the next good one takes its place" in message
  assert messages[-1] == "3 damaged images were met 6 times"


def test_undamaged_data_leaves_no_line_in_the_log(numbered, caplog):
  dataset, config = numbered(12, on_bad_image="skip")
  training_labels(dataset, config)
  assert not caplog.records


def test_without_skip_the_error_says_how_to_go_on(numbered):
  dataset, config = numbered(12)
  spoil(dataset, 3)
  with pytest.raises(UserError, match=r"record 3 is damaged .* or go on .*on-bad-image skip"):
    training_labels(dataset, config)


def test_evaluation_never_replaces_but_leaves_out(numbered, caplog):
  dataset, config = numbered(10, on_bad_image="skip")
  spoil(dataset, 3, 9)
  batches = list(eval_batches(dataset, config, batch_size=4))
  counted = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
  assert sorted(counted) == [0, 1, 2, 4, 5, 6, 7, 8]
  assert {name for batch in batches for name in batch} == {"image", "label", "mask", "position"}
  assert "record 3 is damaged" in caplog.text
  assert "left out of the evaluation" in caplog.text


def test_too_many_damaged_images_in_a_row_end_the_run(numbered):
  dataset, config = numbered(40, on_bad_image="skip")
  spoil(dataset, *range(5, 5 + damage.LONGEST_ROW))
  with pytest.raises(UserError, match=r"16 images in a row are damaged, too many to skip"):
    training_labels(dataset, config, steps=10)


def test_a_wrong_label_is_no_damage_to_skip(numbered):
  dataset, config = numbered(12, on_bad_image="skip")

  class WrongLabel(list):
    def __getitem__(self, index):
      if index == 3:
        raise UserError("record 3 has the label 12")
      return super().__getitem__(index)

  dataset = dataclasses.replace(dataset, train=WrongLabel(dataset.train))
  with pytest.raises(UserError, match="record 3 has the label 12"):
    training_labels(dataset, config)


def test_a_record_that_cannot_be_read_is_skipped_too(tiny_config, tiny_dir, tmp_path):
  shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
  (file,) = (tmp_path / "tiny" / "1.0.0").glob("*train*")
  content = bytearray(file.read_bytes())
  content[content.find(b"JFIF") + 100] ^= 0xFF
  file.write_bytes(content)
  config = dataclasses.replace(tiny_config, data_dir=str(tmp_path), on_bad_image="skip")
  batches = train_batches(open_dataset(config), config, seed=0, batch_size=23, first_step=0)
  assert next(batches)["label"].shape == (23,)


def test_a_wrong_limit_of_pixels_is_no_damage_of_an_image(numbered, monkeypatch):
  """Nothing is skipped or called damaged for a variable that the user set wrongly."""
  dataset, config = numbered(12, on_bad_image="skip")
  monkeypatch.setenv("PST_JAX_MAX_PIXELS", "many")
  with pytest.raises(UserError, match=r"^PST_JAX_MAX_PIXELS is 'many'"):
    damage.GoodRecords(dataset.train, config)[0]
