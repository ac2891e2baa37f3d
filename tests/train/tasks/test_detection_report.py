import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.box_scenes import CLASSES, coco_files, pycocotools_evaluation, random_batches

from pst_jax.errors import UserError
from train.data.box_records import COCO_CATEGORY_IDS
from train.tasks.detection.mean_ap import MeanAP
from train.tasks.detection.reports import (
  class_table,
  class_table_text,
  draw_precision_recall,
  precision_recall,
  write_detections,
)

NAMES = ("cat", "dog", "bird", "elephant")
BATCHES = random_batches(0)


@pytest.fixture(scope="module")
def state():
  state = MeanAP(CLASSES)
  for batch in BATCHES:
    state = state.update(*batch)
  return state


@pytest.fixture(scope="module")
def result(state):
  return state.compute()


# Classes


def test_a_class_has_the_figures_that_pycocotools_finds_with_that_class_alone(result):
  truth, found = coco_files(BATCHES)
  for index, row in enumerate(class_table(result, NAMES)):
    own = [a for a in truth["annotations"] if a["category_id"] == index + 1]
    alone = truth | {"annotations": own, "categories": [truth["categories"][index]]}
    expected = pycocotools_evaluation(alone, found).stats
    assert [row["map"], row["ap50"], row["ap_small"], row["ar100"]] == list(expected[[0, 1, 3, 8]])
    assert row["boxes"] == sum(not a["iscrowd"] for a in own)


def test_the_table_has_a_line_for_the_mean_and_one_for_each_class(result):
  lines = class_table_text(result, NAMES).splitlines()
  assert [line.split()[0] for line in lines] == ["class", "all", *NAMES]
  assert f"{100 * result.figures['map']:.2f}" in lines[1].split()
  assert len({len(line) for line in lines}) == 1


# Curves


@pytest.mark.parametrize(("iou", "figure"), [(0.5, "ap50"), (0.75, "ap75")])
def test_the_area_under_the_mean_curve_is_the_ap(result, iou, figure):
  assert precision_recall(result, iou).mean.mean() == pytest.approx(result.figures[figure])


def test_precision_and_score_fall_with_recall(result):
  curve = precision_recall(result)
  assert (np.diff(curve.precision, axis=1) <= 0).all()
  assert (np.diff(curve.score, axis=1) <= 0).all()


def test_the_plot_names_every_class_and_the_mean(result):
  axes = Figure().subplots()
  draw_precision_recall(axes, result, NAMES)
  labels = [text.get_text().split()[0] for text in axes.get_legend().get_texts()]
  assert labels == [*NAMES, "mean"]


# JSON


def test_coco_tools_find_the_same_figures_in_the_file(state, result, tmp_path):
  path = tmp_path / "detections.json"
  count = write_detections(path, state, range(1, CLASSES + 1))
  found = json.loads(path.read_text())
  assert len(found) == count
  expected = pycocotools_evaluation(coco_files(BATCHES)[0], found)
  assert list(result.figures.values()) == [float(value) for value in expected.stats]


def test_classes_of_coco_get_its_numbers(tmp_path, state):
  assert len(COCO_CATEGORY_IDS) == 80
  assert COCO_CATEGORY_IDS[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
  assert (COCO_CATEGORY_IDS[26], COCO_CATEGORY_IDS[60], COCO_CATEGORY_IDS[79]) == (31, 67, 90)
  path = tmp_path / "detections.json"
  write_detections(path, state, (7, 13, 90, 91))
  assert {entry["category_id"] for entry in json.loads(path.read_text())} == {7, 13, 90}


def test_a_state_without_detections_is_an_empty_list(tmp_path):
  path = tmp_path / "detections.json"
  assert write_detections(path, MeanAP(CLASSES), COCO_CATEGORY_IDS) == 0
  assert json.loads(path.read_text()) == []


def test_a_class_without_a_number_leaves_no_file(tmp_path, state):
  with pytest.raises(UserError, match="class 2 was detected, but only 2 category ids"):
    write_detections(tmp_path / "detections.json", state, (1, 2))
  assert list(tmp_path.iterdir()) == []
