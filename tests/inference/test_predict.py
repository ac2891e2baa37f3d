import csv
import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
from support.quick_jit import OPTIONS, quick_jit
from support.small_weights import PREPROCESSING, small_file, small_images, small_weights

from pst_jax import __main__ as command_line
from pst_jax.commands.answers import Classes
from pst_jax.convert import read_weights, write_safetensors
from pst_jax.errors import UserError
from pst_jax.inference.class_names import class_names
from pst_jax.inference.classifier import Classifier
from pst_jax.inference.drawing import Picture, write
from pst_jax.inference.overlay import PANEL, draw_overlay
from pst_jax.inference.predictions import likeliest
from pst_jax.inference.predictor import normalize
from pst_jax.preprocessing import evaluation_crop


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr("pst_jax.inference.predictions.compiler_options", lambda: OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A file of weights and three images of 40x48 pixels among other files."""
  folder = tmp_path_factory.mktemp("predict")
  small_file(folder / "weights.safetensors", class_names=("ant", "bee", "cat"))
  (folder / "images").mkdir()
  for name, image in zip("cab", small_images(3, 48), strict=True):
    cv2.imwrite(str(folder / "images" / f"{name}.PNG"), image[:40, :, ::-1])
  (folder / "images" / "notes.txt").write_text("no image")
  return folder


def predict(*arguments):
  return command_line.main(["predict", *map(str, arguments)])


def expected_probabilities(path, top_k=0):
  """Through the unfolded network and the trainer's evaluation crop."""
  weights = small_weights()
  image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
  image = evaluation_crop(image, image_size=16, eval_crop=0.5)
  prepared = normalize(image[None], PREPROCESSING["mean"], PREPROCESSING["std"], np.float32)
  logits = quick_jit(weights.network(top_k=top_k).apply)(weights.variables, prepared)[0]
  return np.exp(logits) / np.exp(logits).sum()


def test_json_has_the_tokens_that_a_rule_opened(folder, tmp_path):
  arguments = folder / "weights.safetensors", folder / "images" / "a.PNG", "--top-k", 2
  written = {}
  for rule in ("top_k", "research.rules:select_strongest", "mass", "per_query", "random"):
    path = tmp_path / f"{rule}.json"
    assert predict(*arguments, "--selection", rule, "--json", path) == 0
    (result,) = json.loads(path.read_text())
    (written[rule],) = result["opened"]
  assert {len(each) for each in written["top_k"]["tokens"]} == {2}
  assert {len(each) for each in written["mass"]["tokens"]} <= {1, 2}
  assert all(
    0 <= token < 4 for module in written.values() for each in module["tokens"] for token in each
  )
  predict(*arguments[:2], "--top-k", 0, "--json", path, "--force")
  assert "opened" not in json.loads(path.read_text())[0]


def test_a_folders_images_are_predicted_in_order_into_json_and_csv(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(Classes, "batch_size", 2)  # the last batch is not full
  weights, images = folder / "weights.safetensors", folder / "images"
  tables = "--csv", tmp_path / "p.csv", "--json", tmp_path / "p.json"
  assert predict(weights, images, "--top-k", 2, "--top", 2, *tables) == 0
  results = json.loads((tmp_path / "p.json").read_text())
  assert [r["image"] for r in results] == [str(images / f"{name}.PNG") for name in "abc"]
  for result in results:
    expected = expected_probabilities(result["image"], top_k=2)
    order = np.argsort(-expected)[:2]
    found = result["predictions"]
    assert [p["index"] for p in found] == list(order)
    assert [p["name"] for p in found] == [("ant", "bee", "cat")[i] for i in order]
    np.testing.assert_allclose([p["probability"] for p in found], expected[order], rtol=1e-3)
  with open(tmp_path / "p.csv") as file:
    rows = list(csv.DictReader(file))
  assert [(r["image"], int(r["index"]), r["name"]) for r in rows] == [
    (r["image"], p["index"], p["name"]) for r in results for p in r["predictions"]
  ]
  assert [row["rank"] for row in rows] == ["1", "2"] * 3


def test_a_reader_that_leaves_does_not_cost_the_file(folder, tmp_path, monkeypatch):
  end, start = os.pipe()
  os.close(end)
  with open(start, "w") as unread:
    monkeypatch.setattr("sys.stdout", unread)
    assert predict(folder / "weights.safetensors", folder / "images", "--csv", tmp_path / "a") == 0
  assert (tmp_path / "a").read_text().count("\n") == 10


def test_a_broken_image_is_named_and_the_others_are_predicted(folder, tmp_path, capsys):
  images = [folder / "images" / "a.PNG", folder / "images" / "notes.txt", folder / "images/b.PNG"]
  table = tmp_path / "p.csv"
  assert predict(folder / "weights.safetensors", *images, "--csv", table, "--top", 1) == 2
  with open(table) as file:
    assert [row["image"] for row in csv.DictReader(file)] == [str(images[0]), str(images[2])]
  error = capsys.readouterr().err
  assert error.startswith(f"error: 1 of 3 images: {images[1]}: this is no image")
  assert error.endswith("; the others are predicted\n") and error.count("\n") == 1


def test_predictions_are_printed_with_names(folder, capsys):
  image = folder / "images" / "a.PNG"
  assert predict(folder / "weights.safetensors", image, "--top", 1) == 0
  first, second = capsys.readouterr().out.split("\n\n")
  expected = expected_probabilities(image)
  best = int(np.argmax(expected))
  assert "resnet18_pst, 3 classes" in first
  name = ("ant", "bee", "cat")[best]
  assert second.split() == [str(image), f"{100 * expected[best]:.2f}", "%", str(best), name]


def test_overlays_are_drawn_for_every_image_of_a_folder(folder, tmp_path):
  # As it was trained: coarse alone, so the overlay chooses; these images have 4 coarse tokens.
  out = tmp_path / "drawn"
  arguments = folder / "weights.safetensors", folder / "images", "--topk-overlay", out
  assert predict(*arguments, "--top-k", 3) == 0
  assert sorted(path.name for path in out.iterdir()) == [f"{name}_tokens.png" for name in "abc"]
  drawing = cv2.imread(str(out / "a_tokens.png"))
  assert drawing.shape[0] > PANEL
  assert drawing.shape[1] > 2 * PANEL


def choose_last(scores, k, key):
  del key
  tokens = scores.shape[-1]
  return np.broadcast_to(np.arange(tokens - k, tokens), (*scores.shape[:-1], k))


def test_the_rule_that_weights_were_trained_with_is_used():
  weights = small_weights(selection="spread", top_k=2)
  assert Classifier.from_weights(weights).network.selection == "spread"
  assert Classifier.from_weights(weights, selection="norm").network.selection == "norm"


def test_no_file_of_weights_chooses_what_is_imported():
  weights = small_weights(selection="os:system")
  with pytest.raises(ValueError, match=r"the rule os:system.*give it with --selection"):
    Classifier.from_weights(weights, top_k=2)
  assert Classifier.from_weights(weights, top_k=0).network.selection == "top_k"


@pytest.mark.parametrize(
  "option", [{"selection": "this_is_run:rule"}, {"top_k": 2}, {"folded": True}, {"dropout": 0.5}]
)
def test_no_file_of_weights_says_more_of_its_network_than_weights_do(tmp_path, monkeypatch, option):
  (tmp_path / "this_is_run.py").write_text("raise SystemExit('run')")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  weights = small_weights()
  block = weights.metadata.to_block()
  block["options"] |= option
  write_safetensors("forged.safetensors", weights.state_dict(), block)
  with pytest.raises(UserError, match=rf"the option '{next(iter(option))}' of model resnet18_pst"):
    read_weights("forged.safetensors")


@pytest.mark.parametrize("table", ["json", "csv"])
def test_a_name_that_is_no_utf8_costs_no_table(folder, tmp_path, table):
  image = os.fsencode(tmp_path) + b"/\xff.png"
  shutil.copy(folder / "images" / "a.PNG", image)
  out = tmp_path / "table"
  drawn = tmp_path / "tokens.png"
  options = f"--{table}", out, "--topk-overlay", drawn
  assert predict(folder / "weights.safetensors", os.fsdecode(image), "--top-k", 2, *options) == 0
  assert "\\udcff.png" in out.read_text()
  assert drawn.exists()


def test_a_very_long_name_is_drawn_at_once():
  image = np.zeros((40, 200, 3), np.uint8)
  write(image, "long " * 20_000, 2, 2, (255, 255, 255))
  assert image.any()


def explained(classifier):
  return quick_jit(classifier.explain)(classifier.variables, small_images(2))


def test_explained_answers_are_the_logits():
  classifier = Classifier.from_weights(small_weights(), top_k=2)
  expected = quick_jit(classifier.run)(classifier.variables, small_images(2))
  np.testing.assert_allclose(explained(classifier)[0], expected, rtol=1e-5, atol=1e-5)


def test_choice_holds_the_tokens_that_the_selection_took():
  weights = small_weights()
  classifier = Classifier.from_weights(weights, top_k=2)
  network = classifier.network.clone(selection=choose_last)
  choice = explained(Classifier(network, classifier.variables, classifier.preprocessing))[1][0]
  np.testing.assert_array_equal(choice.selected, [[[2, 3]], [[2, 3]]])


def test_attention_of_a_head_without_preference_is_even():
  classifier = Classifier.from_weights(small_weights(), top_k=2)
  attention = classifier.variables["params"]["neck"]["pst"]["block0"]["attn"]
  attention["q"] = {"conv": {"kernel": 0 * attention["q"]["conv"]["kernel"]}, "bias": np.zeros(32)}
  choice = explained(classifier)[1][0]
  np.testing.assert_allclose(choice.attention, np.full((2, 1, 4), 0.25), rtol=1e-6)


def test_attention_is_a_share_that_differs_between_tokens():
  attention = explained(Classifier.from_weights(small_weights(), top_k=2))[1][0].attention
  np.testing.assert_allclose(np.sum(attention, axis=-1), 1, rtol=1e-5)
  assert np.ptp(attention) > 0.01


def panel_of(drawing):
  """The panel of the only head: on the right, below its title and the module's."""
  return drawing[76 : 76 + PANEL, -20 - PANEL : -20].astype(int)


def one_head(selected, attention):
  image = np.full((32, 32, 3), 128, np.uint8)
  choice = np.array([selected]), np.array([attention])
  lines = [("50.0 %", "ant")]
  return panel_of(draw_overlay(Picture(image, "x"), [choice], strides=[8], lines=lines))


def test_overlay_frames_the_opened_tokens_alone():
  panel = one_head([6, 9], np.full(16, 1 / 16))
  side = PANEL // 4
  framed = [
    (tuple(panel[row * side + side // 2, column * side]) == (0, 210, 255))
    for row in range(4)
    for column in range(4)
  ]
  assert [token for token, is_framed in enumerate(framed) if is_framed] == [6, 9]


def test_overlay_is_redder_where_attention_is_higher():
  attention = np.zeros(16)
  attention[[5, 10]] = 0.75, 0.25
  panel = one_head([0], attention)
  side = PANEL // 4
  centres = panel[side // 4 :: side, side // 4 :: side].reshape(16, 3)
  redness = centres[:, 0] - centres[:, 2]
  assert redness[5] > redness[10] > redness[11] == redness[15] == 0


def test_likeliest_are_by_probability_and_the_lower_class_first_among_equals():
  logits = np.log(np.array([0.1, 0.2, 0.5, 0.2], np.float32))
  found = likeliest(logits, "abcd", 3)
  assert [(p.index, p.name) for p in found] == [(2, "c"), (1, "b"), (3, "d")]
  np.testing.assert_allclose([p.probability for p in found], [0.5, 0.2, 0.2], rtol=1e-6)


def test_logits_that_are_not_finite_are_no_prediction():
  with pytest.raises(ValueError, match="NaN or infinity"):
    likeliest(np.array([0, np.nan], np.float32), None, 1)


def test_a_thousand_classes_without_names_are_imagenets():
  thousand = {"num_classes": 1000, "stem": "small", "width": 0.125}
  names = class_names(small_weights(options=thousand).metadata)
  assert len(names) == 1000
  assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


def test_other_classes_without_names_have_none():
  assert class_names(small_weights().metadata) is None


def test_the_weights_own_names_come_first():
  own = tuple(f"name {i}" for i in range(1000))
  options = {"num_classes": 1000, "stem": "small", "width": 0.125}
  assert class_names(small_weights(options=options, class_names=own).metadata) == own


def test_weights_without_preprocessing_are_taken_to_be_torchvisions():
  facts = Classifier.preprocessing_of(
    small_weights("resnet18", _imagenet(), preprocessing=None).metadata
  )
  assert (facts["image_size"], facts["eval_crop"]) == (224, 0.875)
  assert facts["mean"] == (0.485, 0.456, 0.406)


def _imagenet():
  return {"num_classes": 3, "stem": "imagenet", "width": 0.125}


@pytest.mark.parametrize(
  "wrong",
  [
    *({"eval_crop": 0}, {"eval_crop": 1e-9}, {"eval_crop": float("nan")}, {"image_size": 99_999}),
    *({"std": [0, 1, 1]}, {"mean": [float("nan"), 0, 0]}),
  ],
)
def test_preprocessing_that_cannot_be_is_refused(wrong):
  metadata = small_weights(preprocessing=PREPROCESSING | wrong).metadata
  with pytest.raises(ValueError, match="preprocessing"):
    Classifier.preprocessing_of(metadata)


MISTAKES = {
  "no such image": ("{w} {d}/nothing.png", "nothing.png: there is no such file or folder"),
  "text as image": ("{w} {i}/notes.txt", "notes.txt: this is no image"),
  "folder without images": ("{w} {d}/texts", "holds no images"),
  "no such weights": ("{d}/nothing.pt {i}/a.PNG", "nothing.pt: there is no such file"),
  "text as weights": ("{i}/notes.txt {i}/a.PNG", "notes.txt: "),
  "image as weights": ("{i}/a.PNG {i}/a.PNG", "a.PNG: "),
  "weights with NaN": ("{d}/nan.safetensors {i}/a.PNG", "NaN or infinity"),
  "two names for three classes": ("{d}/names.safetensors {i}/a.PNG", "names 2"),
  "more tokens than there are": ("{w} {i}/a.PNG --top-k 5", "choose top_k between 0 and 4"),
  "no class": ("{w} {i}/a.PNG --top 0", "--top is 0"),
  "one overlay for three images": ("{w} {i} --topk-overlay {d}/o.png", "give a folder"),
  "overlay into a text": ("{w} {i} --topk-overlay {i}/notes.txt", "is a file, but no .png"),
  "overlay of the coarse branch": (
    "{w} {i}/a.PNG --top-k 0 --topk-overlay {d}/o.png",
    "fine branch",
  ),
  "overlays of the same name": ("{w} {i} {i} --topk-overlay {d}/o", "would both be drawn as"),
  "table that exists": ("{w} {i}/a.PNG --csv {i}/notes.txt", "--force"),
  "two tables in one file": ("{w} {i}/a.PNG --csv {d}/t --json {d}/./t", "written twice"),
  "table nowhere": ("{w} {i}/a.PNG --json {d}/no/p.json", "does not exist"),
}


@pytest.fixture(scope="module")
def mistaken(folder):
  (folder / "texts").mkdir()
  (folder / "texts" / "notes.txt").write_text("no image")
  small_file(folder / "names.safetensors", class_names=("ant", "bee"))
  weights = small_weights()
  weights.variables["params"]["head"]["linear"]["bias"][0] = np.nan
  from pst_jax.convert import write_weights

  write_weights(folder / "nan.safetensors", weights)
  return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(mistaken, capsys, mistake):
  arguments, said = MISTAKES[mistake]
  places = {"w": mistaken / "weights.safetensors", "i": mistaken / "images", "d": mistaken}
  before = sorted(mistaken.rglob("*"))
  assert predict(*(part.format(**places) for part in arguments.split())) == 2
  message = capsys.readouterr().err
  assert message.startswith("error: ")
  assert said in message
  assert message.count("\n") == 1
  assert sorted(mistaken.rglob("*")) == before


@pytest.mark.parametrize("image", ["fifo", "/dev/zero"])
def test_what_is_no_regular_file_is_refused_at_once(folder, tmp_path, image, capsys):
  if image == "fifo":
    os.mkfifo(tmp_path / image)
  assert predict(folder / "weights.safetensors", tmp_path / image) == 2
  assert "this is no regular file, as an image must be" in capsys.readouterr().err


def test_a_fifo_inside_a_folder_is_no_image(folder, tmp_path):
  shutil.copytree(folder / "images", tmp_path / "images")
  os.mkfifo(tmp_path / "images" / "d.png")
  assert predict(folder / "weights.safetensors", tmp_path / "images", "--csv", tmp_path / "p") == 0
  assert (tmp_path / "p").read_text().count("\n") == 10


def test_an_image_of_too_many_pixels_is_refused(folder, tmp_path, capsys):
  header = (20_000).to_bytes(4, "big") * 2
  (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + header + bytes(100))
  assert predict(folder / "weights.safetensors", tmp_path / "bomb.png") == 2
  assert "20000 x 20000 pixels, where 67,108,864 are the most" in capsys.readouterr().err


def test_without_opencv_the_extra_is_named(folder, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "cv2", None)
  assert predict(folder / "weights.safetensors", folder / "images") == 2
  assert "pip install 'opencv-python-headless" in capsys.readouterr().err
