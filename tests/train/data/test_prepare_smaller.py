"""Training images that are written smaller: which, how, and under which name."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from benchmarks.common import photograph
from pst_jax.errors import UserError
from pst_jax.preprocessing import decode, resize
from train.config import DataConfig
from train.data.prepare.smaller import smaller
from train.prepare import main
from train.tasks.classification.data import open_dataset


def photo(height, width, seed=0, ending=".jpg"):
  return photograph(np.random.default_rng(seed), height, width, ending)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """The folder of a prepared data set, and the files that it was made of, by their names."""
  folder, files = tmp_path_factory.mktemp("photos"), {}
  for split, class_, number in [
    (s, c, n) for s in ("train", "test") for c in "ab" for n in range(2)
  ]:
    path = folder / "source" / split / class_ / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo(100, 120 + 20 * number, seed=len(files)))
    files[split, f"{class_}/{number}.jpg"] = path.read_bytes()
  source = ["--source", str(folder / "source"), "--name", "photos", "--data-dir", str(folder)]
  main(["folder", *source, "--short-side", "50"])
  return folder, files


def records(folder, split):
  place = {"dataset": "photos/short_side_50", "data_dir": str(folder)}
  dataset = open_dataset(DataConfig(train_split=split, eval_split="test", **place))
  return {each["name"].split("(")[1][:-1]: each["image"] for each in dataset.train}


def test_training_images_are_smaller(prepared):
  folder, files = prepared
  found = records(folder, "train")
  assert len(found) == 4
  for name, image in found.items():
    height, width = decode(files["train", name]).shape[:2]
    assert decode(image).shape == (50, width * 50 // height, 3)


def test_they_are_area_averages_at_quality_90(prepared):
  folder, files = prepared
  pixels = resize(decode(files["train", "a/0.jpg"]), 50, 60)
  wanted = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
  assert records(folder, "train")["a/0.jpg"] == wanted


def test_evaluation_images_keep_their_bytes(prepared):
  folder, files = prepared
  assert records(folder, "test") == {
    name: files["test", name] for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")
  }


def test_the_risk_is_in_the_metadata(prepared):
  builder = tfds.builder_from_directory(prepared[0] / "photos/short_side_50/1.0.0")
  assert "accuracy may be lower" in builder.builder_config.description


def test_the_whole_data_set_can_lie_beside_it(prepared):
  folder, files = prepared
  source = ["--source", str(folder / "source"), "--name", "photos", "--data-dir", str(folder)]
  main(["folder", *source])
  dataset = open_dataset(DataConfig(dataset="photos", data_dir=str(folder), eval_split="test"))
  assert {each["image"] for each in dataset.train} == {
    image for (split, _), image in files.items() if split == "train"
  }


def test_imagenet_is_named_by_its_variant(tars_dir, tmp_path, capsys):
  place = ["--manual-dir", str(tars_dir), "--data-dir", str(tmp_path), "--subset"]
  main(["imagenet2012", *place, "--short-side", "40"])
  assert "--data.dataset imagenet2012/short_side_40 " in capsys.readouterr().out
  config = DataConfig(dataset="imagenet2012/short_side_40", data_dir=str(tmp_path))
  shapes = [decode(each["image"]).shape for each in open_dataset(config).train]
  assert {min(height, width) for height, width, _ in shapes} == {40}


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_small_image_is_encoded_again_without_shrinking(ending):
  encoded = photo(60, 80, ending=ending)
  written = smaller(encoded, 400)
  assert len(written) < len(encoded)
  assert decode(written).shape == (60, 80, 3)


def test_an_image_that_would_grow_stays_as_it_is():
  encoded = cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
  assert smaller(encoded.tobytes(), 400) == encoded.tobytes()


def test_an_image_that_cannot_be_decoded_stays_as_it_is():
  assert smaller(b"no image", 400) == b"no image"


@pytest.mark.parametrize("value", ["0", "31", "-400", "4e2", "x"])
def test_a_side_that_is_none_is_refused(value, tmp_path, capsys):
  with pytest.raises((SystemExit, UserError)) as caught:
    main(
      [
        "folder",
        "--source",
        ".",
        "--name",
        "x",
        "--data-dir",
        str(tmp_path),
        f"--short-side={value}",
      ]
    )
  message = capsys.readouterr().err + str(caught.value)
  assert f"'{value}' must be a whole number of pixels from 32, such as 400" in message


def test_a_variant_that_is_not_there_is_prepared_by_a_command(tmp_path):
  with pytest.raises(UserError, match=r"python -m train\.prepare imagenet2012 --short-side 400 "):
    open_dataset(DataConfig(dataset="imagenet2012/short_side_400", data_dir=str(tmp_path)))
