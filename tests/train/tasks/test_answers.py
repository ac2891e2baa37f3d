"""What is said of a classifier's answers, against figures counted by hand."""

import csv

import cv2
import numpy as np
import pytest

from train.data.sources import Dataset
from train.tasks.classification import answers as library
from train.tasks.classification.answers import Answers
from train.tasks.classification.task import TASK

NAMES = ("cat", "dog", "emu")
# Positions in two batches; of the three cats one is taken for a dog and one for an emu.
BATCHES = [
  Answers(*map(np.array, ([2, 0], [0, 0], [1, 0], [0.9, 0.62]))),
  Answers(*map(np.array, ([1, 3, 4], [0, 1, 1], [2, 1, -1], [0.9, 0.65, 0.0]))),
]
ANSWERS = library.joined(BATCHES)


def test_images_come_in_the_order_of_the_split():
  assert ANSWERS.position.tolist() == [0, 1, 2, 3, 4]
  assert ANSWERS.predicted.tolist() == [0, 2, 1, 1, -1]


def test_the_confusion_matrix_counts_what_was_told():
  assert library.confusion(ANSWERS, 3).tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_the_calibration_error_is_that_of_guo_et_al():
  error, bins = library.calibration(ANSWERS)
  # 15 bins: 0; 0.62 and 0.65 from 9/15 to 10/15, both right; 0.9 twice from 13/15 on, both wrong.
  assert [each.images for each in bins] == [1, 2, 2]
  assert error == pytest.approx((1 * 0 + 2 * (1 - 0.635) + 2 * 0.9) / 5)


def test_a_class_has_its_accuracy_and_what_it_is_taken_for():
  cat, dog = library.by_class(ANSWERS, NAMES)
  assert cat == ("cat", 3, pytest.approx(1 / 3), pytest.approx(2.42 / 3), "dog", 1)
  assert dog[:3] == ("dog", 2, 0.5) and dog.mistakes == 0


def test_the_text_has_the_classes_the_matrix_and_the_error():
  lines = library.text(ANSWERS, NAMES).splitlines()
  assert lines[2].split() == ["cat", "3", "33.33", "80.67", "dog", "(1)"]
  assert lines[6].split() == ["cat", "1", "1", "1"]
  assert lines[-1].startswith("expected calibration error 50.60 % (15 bins): sure to 61.40 %")


def test_of_many_classes_the_worst_are_shown_first():
  count = 30
  labels = np.arange(count)
  many = Answers(labels, labels, np.where(labels == 17, 0, labels), np.ones(count))
  lines = library.text(many, tuple(map(str, range(count)))).splitlines()
  assert lines[0] == "classes (the 20 worst of 30; --classes FILE has all):"
  assert lines[2].split()[:3] == ["17", "1", "0.00"]
  assert len(lines) == 2 + 20 + 2


@pytest.fixture
def dataset():
  def record(index):
    image = cv2.imencode(".png", np.full((8, 12, 3), 50 * index, np.uint8))[1].tobytes()
    return {"name": f"image {index}, of 5", "image": image}

  return Dataset(None, [record(i) for i in range(5)], 3, NAMES, None, None, {})


def write(option, path, dataset):
  TASK.files[option](str(path), {"answers": BATCHES}, dataset, force=False)


def test_predictions_are_a_row_of_csv_for_each_image(tmp_path, dataset):
  write("predictions", tmp_path / "p.csv", dataset)
  head, *rows = csv.reader((tmp_path / "p.csv").open())
  assert head == ["position", "image", "label", "predicted", "confidence", "right"]
  assert rows[1] == ["1", "image 1, of 5", "cat", "emu", "0.900000", "0"]
  assert rows[4][3:] == ["", "0.000000", "0"]


def test_classes_are_a_row_of_csv_each(tmp_path, dataset):
  write("classes", tmp_path / "c.csv", dataset)
  assert (tmp_path / "c.csv").read_text().splitlines()[1] == "cat,3,0.333333,0.806667,dog,1"


def test_the_surest_mistakes_are_drawn(tmp_path, dataset, capsys):
  write("mistakes", tmp_path / "m.png", dataset)
  assert "(2 mistakes of 2, the surest first)" in capsys.readouterr().out
  assert cv2.imread(str(tmp_path / "m.png")).shape[1] > 2 * 200


def test_without_mistakes_nothing_is_written(tmp_path, dataset, capsys):
  right = [each._replace(predicted=each.label) for each in BATCHES]
  TASK.files["mistakes"](str(tmp_path / "m.png"), {"answers": right}, dataset, force=False)
  assert "there are no mistakes" in capsys.readouterr().out
  assert not (tmp_path / "m.png").exists()


@pytest.mark.parametrize("option", ["confusion", "reliability"])
def test_plots_are_drawn(tmp_path, dataset, option):
  write(option, tmp_path / "plot.png", dataset)
  assert cv2.imread(str(tmp_path / "plot.png")).std() > 5
