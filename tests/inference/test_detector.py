import contextlib
import csv
import functools
import io
import json
import sys

import cv2
import jax
import numpy as np
import pytest
from support.quick_jit import OPTIONS, quick_jit
from support.small_detector import SIZE, detector_file, detector_weights, pictures
from support.small_weights import small_file, small_weights

from pst_jax import __main__ as command_line
from pst_jax import detection
from pst_jax.commands import predict as command
from pst_jax.commands.answers import Boxes
from pst_jax.convert import Metadata
from pst_jax.errors import UserError
from pst_jax.inference.class_names import class_names
from pst_jax.inference.classifier import Classifier
from pst_jax.inference.detector import Detector
from pst_jax.inference.overlay import PANEL
from pst_jax.inference.predictions import Detection, detections
from pst_jax.inference.stablehlo import export_predictor

NAMES = ("ant", "bee", "cat")
HEIGHT, WIDTH = 50, 80
# As `evaluation_geometry` places such a picture on 64 x 64: 40 rows, 12 of grey above.
SCALE, TOP = 0.8, 12


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("pst_jax.inference.predictions.compiler_options", lambda: OPTIONS)
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Weights of a detector and of a classifier, two pictures of 50x80 pixels, and no picture."""
  folder = tmp_path_factory.mktemp("detect")
  detector_file(folder / "weights.safetensors", class_names=NAMES)
  small_file(folder / "classifier.safetensors")
  (folder / "images").mkdir()
  for name, image in zip("ba", pictures(2, HEIGHT, WIDTH), strict=True):
    cv2.imwrite(str(folder / "images" / f"{name}.png"), image[..., ::-1])
  (folder / "images" / "notes.txt").write_text("no image")
  return folder


@pytest.fixture(scope="module")
def predicted(folder, quick_compilation, tmp_path_factory):
  """What `predict` leaves of two pictures and a text, and what it says of the text."""
  out, said = tmp_path_factory.mktemp("out"), io.StringIO()
  images = [folder / "images" / name for name in ("notes.txt", "a.png", "b.png")]
  options = "--csv", out / "p.csv", "--json", out / "p.json", "--draw", out / "drawn"
  with contextlib.redirect_stderr(said):
    assert predict(folder / "weights.safetensors", *images, "--score", 0.52, *options) == 2
  return out, said.getvalue()


@pytest.fixture(scope="module")
def exported(folder):
  path = folder / "detector.stablehlo"
  assert export(folder / "weights.safetensors", path, "--top-k", 2, "--score", 0.52) == 0
  return path


def predict(*arguments):
  return command_line.main(["predict", *map(str, arguments)])


def export(*arguments):
  return command_line.main(["export", *map(str, arguments)])


@functools.cache
def unfolded(top_k):
  """The network as it was trained, for three images."""
  weights = detector_weights()
  return functools.partial(quick_jit(weights.network(top_k=top_k).apply), weights.variables)


def expected(images, top_k=0, **limits):
  padding = np.zeros((3 - len(images), SIZE, SIZE, 3), np.float32)
  maps = unfolded(top_k)(np.concatenate([images.astype(np.float32) / 255, padding]))
  kept = [each[: len(images)] for each in maps]
  return detection.non_max_suppression(*detection.decode(kept), **limits)


def assert_same(found, wanted):
  assert 3 < np.sum(wanted.valid[0]) < 100
  np.testing.assert_array_equal(found.valid, wanted.valid)
  np.testing.assert_array_equal(found.classes, wanted.classes)
  np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
  np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)


def test_mean_and_std_are_those_of_the_metadata():
  facts = {"image_size": SIZE, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
  assert Detector.from_weights(detector_weights(preprocessing=facts)).preprocessing == facts


def letterboxed(path):
  image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
  square = np.full((SIZE, SIZE, 3), 114, np.uint8)
  square[TOP : TOP + 40] = cv2.resize(image, (SIZE, 40), interpolation=cv2.INTER_LINEAR)
  return square


def test_boxes_are_told_in_pixels_of_the_picture(folder, predicted):
  results = json.loads((predicted[0] / "p.json").read_text())
  paths = [str(folder / f"images/{name}.png") for name in "ab"]
  assert [result["image"] for result in results] == paths
  wanted = expected(np.stack([letterboxed(path) for path in paths]), score_threshold=0.52)
  for i, result in enumerate(results):
    count, found = int(np.sum(wanted.valid[i])), result["detections"]
    boxes = np.asarray(wanted.boxes[i, :count], np.float64)
    boxes = np.clip((boxes - [0, TOP, 0, TOP]) / SCALE, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    assert count > 0
    np.testing.assert_allclose([each["box"] for each in found], boxes, atol=1e-2)
    assert [each["index"] for each in found] == wanted.classes[i, :count].tolist()
    assert [each["name"] for each in found] == [NAMES[each["index"]] for each in found]
    scores = [each["score"] for each in found]
    np.testing.assert_allclose(scores, wanted.scores[i, :count], atol=1e-5)


def test_a_box_at_the_edges_of_a_picture_with_a_rounded_side_stays_there():
  picture = cv2.imencode(".png", np.zeros((7, 100, 3), np.uint8))[1].tobytes()
  prepared = Boxes().prepare(picture, {"image_size": 64})
  place = prepared.place
  edges = (0.0, float(place.top), 64.0, float(place.top + place.height))
  (found,) = Boxes().on_picture([Detection(0, None, 0.9, edges)], prepared)
  np.testing.assert_allclose(found.box, [0, 0, 100, 7])


def test_boxes_that_are_no_numbers_are_damage_and_not_an_empty_picture():
  boxes, scores = np.zeros((1, 5, 4), np.float32), np.full((1, 5, 2), np.nan, np.float32)
  batch = detection.non_max_suppression(boxes, scores)
  found = jax.tree.map(lambda each: np.asarray(each)[0], batch)
  with pytest.raises(UserError, match="the boxes hold NaN or infinity"):
    detections(found, None)


def test_the_table_has_a_row_for_every_box(predicted):
  results = json.loads((predicted[0] / "p.json").read_text())
  with open(predicted[0] / "p.csv") as file:
    rows = list(csv.DictReader(file))
  told = [(result["image"], each) for result in results for each in result["detections"]]
  assert [(row["image"], row["name"]) for row in rows] == [(i, each["name"]) for i, each in told]
  corners = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows]
  np.testing.assert_allclose(corners, [each["box"] for _, each in told], atol=0.01)


def test_a_broken_image_is_named_and_the_others_are_drawn(folder, predicted):
  out, said = predicted
  assert said.startswith(f"error: 1 of 3 images: {folder}/images/notes.txt: this is no image")
  assert said.count("\n") == 1
  assert sorted(each.name for each in (out / "drawn").iterdir()) == ["a_boxes.png", "b_boxes.png"]


def test_boxes_are_drawn_on_the_enlarged_picture(folder, predicted):
  drawn = cv2.imread(str(predicted[0] / "drawn" / "a_boxes.png"))
  original = cv2.imread(str(folder / "images" / "a.png")).repeat(6, axis=0).repeat(6, axis=1)
  assert drawn.shape == original.shape
  assert np.mean(np.any(drawn != original, axis=-1)) > 0.02


def test_a_picture_without_boxes_is_told_too():
  results = [{"image": "a.png", "found": []}]
  assert command.as_csv(Boxes(), results) == "image,rank,index,name,score,x1,y1,x2,y2\n"
  assert json.loads(command.as_json(Boxes(), results)) == [{"image": "a.png", "detections": []}]
  assert list(Boxes().lines([])) == ["no boxes"]


def test_both_modules_tell_which_tokens_they_opened():
  detector = Detector.from_weights(detector_weights(), top_k=2, score_threshold=0.52)
  images = pictures(2, SIZE, SIZE)
  found, choices = quick_jit(detector.explain)(detector.variables, images)
  assert_same(found, expected(images, top_k=2, score_threshold=0.52))
  assert [each.attention.shape[-1] for each in choices] == [4, 16]
  assert [(SIZE // stride) ** 2 for stride in detector.token_strides] == [4, 16]
  for each in choices:
    assert each.selected.shape[::2] == (2, 2)
    np.testing.assert_allclose(np.sum(each.attention, axis=-1), 1, rtol=1e-5)


def test_an_overlay_shows_both_modules_and_the_boxes(folder, tmp_path):
  image, out = folder / "images" / "a.png", tmp_path / "o.png"
  weights = folder / "weights.safetensors"
  assert predict(weights, image, "--topk-overlay", out, "--top-k", 2) == 0
  drawing = cv2.imread(str(out))
  assert drawing.shape[0] > 2 * PANEL
  assert drawing.shape[1] > 2 * PANEL


def test_eighty_classes_without_names_are_cocos():
  options = {"num_classes": 80, "width": 0.25}
  names = class_names(Metadata("yolo11n", options, "nowhere", task="detection"))
  assert len(names) == 80
  assert (names[0], names[15], names[79]) == ("person", "cat", "toothbrush")
  assert class_names(small_weights(options={**small_weights().metadata.options}).metadata) is None


def test_weights_that_say_nothing_are_letterboxed_to_640():
  facts = Detector.preprocessing_of(detector_weights(preprocessing=None).metadata)
  assert facts == {"image_size": 640, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("wrong", [{"image_size": 100}, {"image_size": 64, "std": [1, 0, 1]}])
def test_preprocessing_that_cannot_be_is_refused(wrong):
  with pytest.raises(ValueError, match="a multiple of 32"):
    Detector.from_weights(detector_weights(preprocessing=wrong))


def test_a_detector_where_a_classifier_is_needed_is_named():
  with pytest.raises(ValueError, match="yolo11n-pst is a network for detection, but one for class"):
    Classifier.from_weights(detector_weights())


def test_a_run_of_detection_says_how_images_were_prepared():
  config = {
    "model.name": "yolo11n-pst",
    "model.top_k": 0,
    "model.width": 0.25,
    "data.image_size": 320,
    "data.mean": (0.0, 0.0, 0.0),
    "data.std": (1.0, 1.0, 1.0),
  }
  facts = {"source": "run", "step": 1, "weights": "ema", "task": "detection"}
  metadata = Metadata.of_run(config, 3, **facts)
  assert metadata.preprocessing == {"image_size": 320, "mean": [0.0] * 3, "std": [1.0] * 3}
  assert Metadata.from_block(metadata.to_block()) == metadata


MISTAKES = {
  "side no multiple of 32": (
    "predict {w} {i}/a.png --image-size 100",
    "images of 100x100 pixels were given, but a detector takes sides that are multiples of 32",
  ),
  "side of nothing": ("predict {w} {i}/a.png --image-size 0", "image_size is 0"),
  "more tokens than there are": ("predict {w} {i}/a.png --top-k 5", "top_k"),
  "top of a detector": ("predict {w} {i}/a.png --top 3", "--top is for classification"),
  "score of a classifier": ("predict {c} {i}/a.png --score 0.5", "--score is for detection"),
  "boxes of a classifier": ("predict {c} {i}/a.png --draw {d}/o.png", "--draw is for detection"),
  "score beyond 1": ("predict {w} {i}/a.png --score 25", "--score is 25.0, but it must be"),
  "iou that is none": ("predict {w} {i}/a.png --iou nan", "--iou is nan, but it must be"),
  "one drawing for two": ("predict {w} {i} --draw {d}/o.png", "give a folder"),
  "export of a wrong side": ("export {w} {d}/net --image-size 100", "multiples of 32"),
  "export of too many tokens": ("export {w} {d}/net --top-k 5", "top_k"),
  "export with a wrong threshold": ("export {w} {d}/net --iou 2", "--iou is 2.0"),
  "threshold of a classifier": ("export {c} {d}/net --iou 0.5", "--iou is for detection"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(folder, capsys, mistake):
  arguments, said = MISTAKES[mistake]
  weights, classifier = (folder / f"{name}.safetensors" for name in ("weights", "classifier"))
  places = {"w": weights, "c": classifier, "i": folder / "images", "d": folder}
  before = sorted(folder.rglob("*"))
  assert command_line.main([part.format(**places) for part in arguments.split()]) == 2
  message = capsys.readouterr().err
  assert message.startswith("error: ")
  assert said in message
  assert message.count("\n") == 1
  assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("batch", [1, 3])
def test_the_exported_file_finds_the_same_boxes(exported, batch):
  images = pictures(batch, SIZE, SIZE)
  network = jax.export.deserialize(bytearray(exported.read_bytes()))
  found = quick_jit(network.call)(images)
  assert found["boxes"].shape == (batch, 300, 4)
  wanted = expected(images, top_k=2, score_threshold=0.52)
  assert_same(detection.Found(**found), wanted)


def test_facts_of_an_exported_detector_lie_beside_it(exported):
  facts = json.loads(exported.with_name("detector.stablehlo.json").read_text())
  assert facts["input"] == f"uint8[batch,{SIZE},{SIZE},3]"
  assert facts["output"]["boxes"] == "float32[batch,300,4]"
  assert facts["output"]["valid"] == "bool[batch,300]"
  assert (facts["score_threshold"], facts["iou_threshold"]) == (0.52, 0.7)
  assert facts["preprocessing"]["image_size"] == SIZE
  assert facts["class_names"] == list(NAMES)


@pytest.mark.parametrize("model", ["yolo11n", "r18-pst"])
def test_every_family_of_detectors_exports_for_all_platforms_at_once(model):
  weights = detector_weights(model)
  exported = export_predictor(Detector.from_weights(weights, image_size=96))
  assert exported.platforms == ("cpu", "tpu", "cuda")
  assert str(exported.in_avals[0]) == "uint8[batch,96,96,3]"


def test_a_detector_needs_no_opencv_until_it_reads_pictures(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "cv2", None)
  path = folder / "without.stablehlo"
  assert export(folder / "weights.safetensors", path, "--platforms", "cpu") == 0


def test_inspect_shows_what_a_detector_is(folder, capsys):
  assert command_line.main(["inspect", str(folder / "weights.safetensors")]) == 0
  out = capsys.readouterr().out
  assert "yolo11n-pst, 3 classes" in out
  assert f"image_size {SIZE}" in out
  assert "ant, bee, cat" in out
