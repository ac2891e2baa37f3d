import collections
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pst_jax import preprocessing
from pst_jax.errors import UserError
from train.config import DataConfig
from train.data import digits
from train.tasks.classification.data import open_dataset

REPOSITORY = pathlib.Path(__file__).parents[3]


def digits_config(data_dir):
  return DataConfig(dataset="digits", data_dir=str(data_dir), eval_split="test")


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("digits")
  open_dataset(digits_config(data_dir))
  return data_dir


def test_digits_are_split_four_to_one(digits_dir):
  dataset = open_dataset(digits_config(digits_dir))
  assert (dataset.num_train, dataset.num_eval, dataset.num_classes) == (1437, 360, 10)
  assert dataset.class_names == tuple("0123456789")


def test_every_digit_is_in_exactly_one_split(digits_dir):
  dataset = open_dataset(digits_config(digits_dir))
  stored = [
    (preprocessing.decode(record["image"])[..., 0].tobytes(), record["label"])
    for split in (dataset.train, dataset.eval)
    for record in split
  ]
  source = load_digits()
  pixels = np.round(source.images * 255 / 16).astype(np.uint8)
  expected = [
    (image.tobytes(), int(label)) for image, label in zip(pixels, source.target, strict=True)
  ]
  assert collections.Counter(stored) == collections.Counter(expected)


def test_each_class_has_a_fifth_of_its_images_in_the_test_split(digits_dir):
  dataset = open_dataset(digits_config(digits_dir))
  train, test = (
    collections.Counter(record["label"] for record in split)
    for split in (dataset.train, dataset.eval)
  )
  assert all(abs(test[digit] - (train[digit] + test[digit]) / 5) < 1 for digit in range(10))


def test_preparing_twice_gives_the_same_records(digits_dir, tmp_path):
  one, two = (open_dataset(digits_config(folder)) for folder in (digits_dir, tmp_path))
  assert list(one.train) == list(two.train)
  assert list(one.eval) == list(two.eval)


def test_a_prepared_data_set_is_not_written_again(digits_dir):
  files = {path: path.stat().st_mtime_ns for path in digits_dir.rglob("*")}
  open_dataset(digits_config(digits_dir))
  assert {path: path.stat().st_mtime_ns for path in digits_dir.rglob("*")} == files


def test_processes_that_start_at_once_all_read_a_whole_data_set(tmp_path):
  code = f"""
from train.config import DataConfig
from train.tasks.classification.data import open_dataset
dataset = open_dataset(DataConfig(dataset="digits", data_dir={str(tmp_path)!r}, eval_split="test"))
assert len(list(dataset.train)) == 1437
"""
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    for _ in range(2)
  ]
  assert [process.wait(timeout=120) for process in processes] == [0, 0]
  assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_losing_the_race_to_another_process_is_no_error(tmp_path, monkeypatch):
  class Slow(digits.Digits, skip_registration=True):
    name = "digits"

    def _generate_examples(self, source, indices):
      yield from super()._generate_examples(source, indices)
      monkeypatch.undo()
      if not (tmp_path / "digits" / "1.0.0").exists():
        digits.prepare(tmp_path)  # the other process, which starts later and ends first

  monkeypatch.setattr(digits, "Digits", Slow)
  digits.prepare(tmp_path)
  assert open_dataset(digits_config(tmp_path)).num_train == 1437
  assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_an_interrupted_preparation_leaves_no_data_set(tmp_path, monkeypatch):
  def interrupted(self, source, indices):
    yield 0, {"image": b"", "label": 0}
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(digits.Digits, "_generate_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
      open_dataset(digits_config(tmp_path))
  assert not (tmp_path / "digits" / "1.0.0").exists()
  assert open_dataset(digits_config(tmp_path)).num_train == 1437


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"dataset digits cannot be written to .*/file"):
    open_dataset(digits_config(tmp_path / "file" / "data"))
