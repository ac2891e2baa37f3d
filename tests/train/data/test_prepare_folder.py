import os
import shlex

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from pst_jax.errors import UserError
from train.config import DataConfig
from train.prepare import main
from train.tasks.classification.data import open_dataset


def encoded(value, ending=".png"):
  return cv2.imencode(ending, np.full((6, 8, 3), value, np.uint8))[1].tobytes()


def fill(folder, classes, count, ending=".png"):
  for class_index, name in enumerate(classes):
    (folder / name).mkdir(parents=True)
    for index in range(count):
      path = folder / name / f"{index}{ending}"
      path.write_bytes(encoded((50 * class_index + index) % 256, ending))


def prepare(source, data_dir, name="pets"):
  main(["folder", "--source", str(source), "--name", name, "--data-dir", str(data_dir)])


def names(data_dir, split, name="pets"):
  config = DataConfig(dataset=name, data_dir=str(data_dir), train_split=split, eval_split=split)
  dataset = open_dataset(config)
  classes = dataset.class_names
  return {
    record["name"].split("(")[1].removesuffix(")"): classes[record["label"]]
    for record in dataset.train
  }


@pytest.fixture
def source(tmp_path):
  """Two classes of 20 images each, without splits."""
  fill(tmp_path / "source", ["dog", "cat"], 20)
  return tmp_path / "source"


def test_every_image_is_in_one_split_with_the_class_of_its_folder(source, tmp_path):
  prepare(source, tmp_path)
  train, test = names(tmp_path, "train"), names(tmp_path, "test")
  assert train | test == {f"{name}/{i}.png": name for name in ("cat", "dog") for i in range(20)}
  assert not train.keys() & test.keys()


def test_a_tenth_of_each_class_is_for_testing(source, tmp_path):
  prepare(source, tmp_path)
  assert sorted(names(tmp_path, "test").values()) == ["cat"] * 2 + ["dog"] * 2


def test_the_split_is_the_same_wherever_the_folder_lies(source, tmp_path):
  prepare(source, tmp_path / "one")
  source.rename(tmp_path / "moved")
  prepare(tmp_path / "moved", tmp_path / "two")
  assert names(tmp_path / "one", "test") == names(tmp_path / "two", "test")


def test_images_keep_their_bytes_and_classes_are_numbered_by_name(source, tmp_path):
  prepare(source, tmp_path)
  dataset = open_dataset(DataConfig(dataset="pets", data_dir=str(tmp_path), eval_split="test"))
  assert dataset.class_names == ("cat", "dog")
  for record in dataset.train:
    assert (source / record["name"].split("(")[1][:-1]).read_bytes() == record["image"]


def test_tfds_itself_reads_it(source, tmp_path):
  prepare(source, tmp_path)
  (example,) = tfds.builder_from_directory(tmp_path / "pets" / "1.0.0").as_data_source("test[:1]")
  assert example["image"].shape == (6, 8, 3)


@pytest.mark.parametrize(
  ("folder", "split"), [("test", "test"), ("val", "validation"), ("validation", "validation")]
)
def test_given_splits_are_kept(tmp_path, folder, split):
  fill(tmp_path / "source" / "train", ["cat", "dog"], 3)
  fill(tmp_path / "source" / folder, ["dog"], 2, ending=".jpg")
  prepare(tmp_path / "source", tmp_path)
  assert names(tmp_path, "train") == {f"{c}/{i}.png": c for c in ("cat", "dog") for i in range(3)}
  assert names(tmp_path, split) == {"dog/0.jpg": "dog", "dog/1.jpg": "dog"}


def test_images_in_folders_inside_a_class_belong_to_it(source, tmp_path):
  (source / "cat" / "more").mkdir()
  (source / "cat" / "more" / "a.png").write_bytes(encoded(1))
  prepare(source, tmp_path)
  assert (names(tmp_path, "train") | names(tmp_path, "test"))["cat/more/a.png"] == "cat"


def test_what_is_no_image_of_a_class_is_left_out_and_counted(source, tmp_path, capsys):
  (source / "cat" / "Thumbs.db").write_bytes(b"")
  # macOS writes such files beside images, and notebooks such folders.
  (source / "cat" / "._0.png").write_bytes(b"resource fork")
  fill(source / "cat", [".ipynb_checkpoints"], 2)
  fill(source, [".cache"], 2)
  (source / "preview.png").write_bytes(encoded(1))
  prepare(source, tmp_path)
  assert f"left out: 3 files, e.g. {source}/preview.png (" in capsys.readouterr().out
  assert len(names(tmp_path, "train") | names(tmp_path, "test")) == 40


def test_the_next_command_can_be_pasted_into_a_shell(source, tmp_path, capsys):
  data_dir = tmp_path / "two words"
  prepare(source, data_dir)
  command = shlex.split(capsys.readouterr().out.splitlines()[-1])
  assert command[command.index("--data.data-dir") + 1] == str(data_dir)


def test_two_preparations_have_the_same_digests(source, tmp_path, capsys):
  tables = []
  for name in ("one", "two"):
    prepare(source, tmp_path / name)
    lines = capsys.readouterr().out.splitlines()
    tables.append([line for line in lines if line.startswith(("train ", "test "))])
  assert tables[0] == tables[1]
  assert len(tables[0]) == 2


@pytest.mark.parametrize("name", ["Pets", "my-pets", "1pets", "digits", "imagenet2012"])
def test_a_name_that_cannot_be_is_refused(source, tmp_path, name):
  with pytest.raises(UserError, match=f"--name is {name}, but it must be"):
    prepare(source, tmp_path, name)


def test_classes_that_are_numbers_have_numeric_order_and_it_says_so(tmp_path, capsys):
  fill(tmp_path / "source" / "train", map(str, range(12)), 1)
  fill(tmp_path / "source" / "test", ["10"], 1)
  prepare(tmp_path / "source", tmp_path)
  dataset = open_dataset(DataConfig(dataset="pets", data_dir=str(tmp_path), eval_split="test"))
  assert dataset.class_names == tuple(map(str, range(12)))
  assert dataset.eval[0]["label"] == 10
  assert "classes are numbered in numeric order: 0, 1, 2, 3, ..." in capsys.readouterr().out


def test_numbers_beside_other_names_are_names(tmp_path, capsys):
  fill(tmp_path / "source" / "train", ["10", "9", "x"], 1)
  fill(tmp_path / "source" / "test", ["10"], 1)
  prepare(tmp_path / "source", tmp_path)
  dataset = open_dataset(DataConfig(dataset="pets", data_dir=str(tmp_path), eval_split="test"))
  assert dataset.class_names == ("10", "9", "x")
  assert "numeric order" not in capsys.readouterr().out


CAFE = "Caf\u00e9", "Cafe\u0301"  # one letter with an accent, or a letter and an accent


@pytest.mark.parametrize(
  "folders", [dict.fromkeys([""], CAFE), {"train": [CAFE[0], "x"], "test": CAFE[1:]}]
)
def test_classes_that_look_the_same_are_refused(tmp_path, folders):
  for folder, classes in folders.items():
    fill(tmp_path / "source" / folder, classes, 10)
  with pytest.raises(UserError, match=r"is there twice, as .* which look the same"):
    prepare(tmp_path / "source", tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_regular_file_is_refused_at_once(source, tmp_path, kind):
  path = source / "cat" / "x.png"
  os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
  with pytest.raises(UserError, match=r"x\.png is no regular file"):
    prepare(source, tmp_path)


def test_an_image_that_training_would_not_decode_is_named(source, tmp_path):
  header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20_000).to_bytes(4, "big") * 2
  (source / "cat" / "0.png").write_bytes(header)
  with pytest.raises(UserError, match=r"0\.png has 20000 x 20000 pixels, where .* or remove it"):
    prepare(source, tmp_path)


def test_a_link_to_an_image_is_one(source, tmp_path):
  (source / "cat" / "x.png").symlink_to(source / "cat" / "1.png")
  prepare(source, tmp_path)
  assert "cat/x.png" in names(tmp_path, "train") | names(tmp_path, "test")


def test_images_that_cannot_be_decoded_are_found_on_demand(source, tmp_path):
  (source / "cat" / "7.png").write_bytes(encoded(1)[:-30])
  prepare(source, tmp_path)
  with pytest.raises(UserError, match=r"the image of record .* \(cat/7\.png\) is damaged"):
    main(
      [
        *("folder", "--source", str(source), "--name", "pets", "--data-dir", str(tmp_path)),
        "--verify-images",
      ]
    )


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(UserError, match=r"nowhere cannot be listed \(No such file"):
    prepare(tmp_path / "nowhere", tmp_path)


def test_a_folder_without_class_folders_is_refused(tmp_path):
  (tmp_path / "source").mkdir()
  (tmp_path / "source" / "1.png").write_bytes(encoded(1))
  with pytest.raises(UserError, match="has no folders: put the images of each class"):
    prepare(tmp_path / "source", tmp_path)


def test_an_empty_class_is_named(source, tmp_path):
  (source / "fish").mkdir()
  with pytest.raises(UserError, match="fish holds no image"):
    prepare(source, tmp_path)


def test_too_few_images_to_split_are_refused(tmp_path):
  fill(tmp_path / "source", ["cat", "dog"], 9)
  with pytest.raises(UserError, match=r"no class in .* has 10 images.*: give the splits"):
    prepare(tmp_path / "source", tmp_path)


def test_train_alone_is_refused(tmp_path):
  fill(tmp_path / "source" / "train", ["cat"], 20)
  with pytest.raises(UserError, match=r"has the split train alone: add .*test, or give --source"):
    prepare(tmp_path / "source", tmp_path)


def test_both_names_of_a_split_are_refused(tmp_path):
  for folder in ("train", "val", "validation"):
    fill(tmp_path / "source" / folder, ["cat"], 1)
  with pytest.raises(UserError, match=r"has one split twice \(train, val, validation\)"):
    prepare(tmp_path / "source", tmp_path)


def test_a_class_without_training_images_is_named(tmp_path):
  fill(tmp_path / "source" / "train", ["cat", "fish"], 2)
  fill(tmp_path / "source" / "test", ["cat", "dog"], 1)
  with pytest.raises(UserError, match=r"split test of .* has the class dog, which train has not"):
    prepare(tmp_path / "source", tmp_path)


def test_a_name_that_is_not_utf8_is_named(source, tmp_path):
  path = bytes(source / "cat") + b"/\xff.png"
  with open(path, "wb") as file:
    file.write(encoded(1))
  with pytest.raises(UserError, match="is not UTF-8"):
    prepare(source, tmp_path)


def test_a_link_that_leads_nowhere_is_named(source, tmp_path):
  (source / "cat" / "x.png").symlink_to(tmp_path / "nowhere")
  with pytest.raises(UserError, match=r"cat/x.png cannot be read \(No such file"):
    prepare(source, tmp_path)


@pytest.mark.parametrize("name", ["two\nlines", " cat", "cat ", "\t"])
def test_a_class_that_tfds_would_rename_is_refused(source, tmp_path, name):
  # It writes the names of classes a line each, and strips what it reads.
  fill(source, [name], 1)
  with pytest.raises(UserError, match="is no name of a class"):
    prepare(source, tmp_path)


def test_a_single_class_is_refused(tmp_path):
  fill(tmp_path / "source" / "pets", ["cat", "dog"], 20)
  with pytest.raises(UserError, match=r"has one class folder alone, pets: .* 2 or more"):
    prepare(tmp_path / "source", tmp_path)


def test_a_folder_beside_splits_is_named(tmp_path):
  fill(tmp_path / "source", ["train", "val", "extra"], 20)
  with pytest.raises(UserError, match="has splits and beside them the folder extra: move it"):
    prepare(tmp_path / "source", tmp_path)


def test_train_may_be_a_class(tmp_path):
  fill(tmp_path / "source", ["bus", "train"], 10)
  prepare(tmp_path / "source", tmp_path)
  assert set(names(tmp_path, "train").values()) == {"bus", "train"}
