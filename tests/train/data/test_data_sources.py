import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from pst_jax import preprocessing
from pst_jax.errors import UserError
from train.config import DataConfig
from train.tasks.classification.data import open_dataset

VERSION = "tiny/1.0.0"


@pytest.fixture
def copied(tiny_dir, tiny_config, tmp_path):
  """(folder of the version, config) of a copy of `tiny` that a test may spoil."""
  shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
  return tmp_path / VERSION, dataclasses.replace(tiny_config, data_dir=str(tmp_path))


def edit_json(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_a_prepared_data_set_says_what_it_holds(tiny_config):
  dataset = open_dataset(tiny_config)
  assert (dataset.num_train, dataset.num_eval, dataset.num_classes) == (23, 10, 3)
  assert dataset.class_names is None  # they have numbers alone


NAMES = b"zero\none\ntwo\n"


@pytest.fixture
def named(copied):
  """(file of the class names, config) of a data set whose three classes have names."""
  folder, config = copied
  (folder / "label.labels.txt").write_bytes(NAMES)
  return folder / "label.labels.txt", config


def test_class_names_are_those_of_their_file(named):
  assert open_dataset(named[1]).class_names == ("zero", "one", "two")


@pytest.mark.parametrize(
  "content", [b"", b"\n\n\n", b"\xff\xfejunk", NAMES[:-4], NAMES + b"3\n", b"a\na\nb\n"]
)
def test_a_damaged_file_of_class_names_is_named(named, content):
  file, config = named
  file.write_bytes(content)
  with pytest.raises(UserError, match=r"label\.labels\.txt (has|cannot be read).*: restore it or"):
    open_dataset(config)


def test_without_a_file_of_names_the_classes_have_none(named):
  file, config = named
  file.unlink()
  assert open_dataset(config).class_names is None


CANARY = """
import pathlib
import tensorflow_datasets as tfds

pathlib.Path("CANARY").touch()


class Evil(tfds.features.Text):
  pass
"""


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_features_cannot_import_a_module(copied, key, tmp_path, monkeypatch):
  folder, config = copied
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / f"evil_{key.lower()}.py").write_text(CANARY)

  def name_evil(features):
    feature = features["featuresDict"]["features"]["file_name"]
    feature.pop("pythonClassName")
    feature[key] = f"evil_{key.lower()}.Evil"
    if key == "type":
      feature["content"] = {}

  edit_json(folder / "features.json", name_evil)
  with pytest.raises(UserError, match=r"feature 'evil_.*\.Evil', which is none of those"):
    open_dataset(config)
  assert not (tmp_path / "CANARY").exists()


def test_features_nested_without_end_are_named(copied):
  folder, config = copied
  (folder / "features.json").write_text("[" * 100_000)
  with pytest.raises(UserError, match=r"cannot be opened \(features\.json: RecursionError\)"):
    open_dataset(config)


def test_records_hold_the_bytes_of_the_file_and_its_name(tiny_config):
  train = open_dataset(tiny_config).train
  by_name = {train[index]["name"].split("(")[1]: train[index] for index in range(23)}
  record = by_name["0-7.jpg)"]
  assert record["label"] == 7 % 3
  assert preprocessing.decode(record["image"]).shape == (27, 28, 3)


def test_a_split_may_be_a_slice(tiny_config):
  dataset = open_dataset(
    dataclasses.replace(tiny_config, train_split="train[:20]", eval_split="train[20:]")
  )
  assert (dataset.num_train, dataset.num_eval) == (20, 3)


@pytest.mark.parametrize(
  ("name", "command"),
  [
    ("imagenet2012", "python -m train.prepare imagenet2012 --manual-dir FOLDER_OF_THE_TARS"),
    ("cifar10", "tfds build cifar10 --file_format=array_record"),
  ],
)
def test_a_missing_data_set_says_where_it_looked_and_how_to_prepare(tmp_path, name, command):
  with pytest.raises(UserError, match=f"dataset {name} is not in {tmp_path}") as caught:
    open_dataset(DataConfig(dataset=name, data_dir=str(tmp_path)))
  assert command in str(caught.value)


def test_an_unfinished_preparation_is_not_a_data_set(copied):
  folder, config = copied
  folder.rename(folder.with_name("incomplete.ABC123_1.0.0"))
  with pytest.raises(UserError, match="dataset tiny is not in"):
    open_dataset(config)


def test_the_newest_version_is_opened(copied):
  folder, config = copied
  for version, length in (("1.0.10", 7), ("1.0.9", 5)):
    other = folder.with_name(version)
    shutil.copytree(folder, other)
    edit_json(
      other / "dataset_info.json",
      lambda info, length=length: info["splits"][0].update(shardLengths=[str(length)]),
    )
  assert open_dataset(config).num_train == 7
  assert open_dataset(dataclasses.replace(config, dataset="tiny:1.0.9")).num_train == 5


def test_an_unknown_version_lists_those_that_exist(tiny_config):
  with pytest.raises(UserError, match=r"tiny:2\.0\.0 is not in .*, which has 1\.0\.0"):
    open_dataset(dataclasses.replace(tiny_config, dataset="tiny:2.0.0"))


def test_a_data_set_with_configs_lists_them(copied):
  folder, config = copied
  (folder.parent / "small").mkdir()
  folder.rename(folder.parent / "small" / "1.0.0")
  with pytest.raises(UserError, match="which has tiny/small: name one of them"):
    open_dataset(config)
  assert open_dataset(dataclasses.replace(config, dataset="tiny/small")).num_train == 23


def test_tfrecord_is_refused_with_the_command_that_converts(copied):
  folder, config = copied
  edit_json(folder / "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
  with pytest.raises(UserError, match="stored as tfrecord, but array_record is needed") as caught:
    open_dataset(config)
  assert (
    f"`tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
    " --num_workers=1` where tensorflow and apache-beam are installed"
  ) in str(caught.value)
  assert "train.prepare" not in str(caught.value)


def test_imagenet_as_tfrecord_can_also_be_prepared_anew(copied):
  folder, config = copied

  def rename(info):
    info.update(name="imagenet2012", fileFormat="tfrecord")

  edit_json(folder / "dataset_info.json", rename)
  folder.parent.rename(folder.parent.with_name("imagenet2012"))
  with pytest.raises(UserError, match=r"convert it with .*, or prepare it in another folder"):
    open_dataset(dataclasses.replace(config, dataset="imagenet2012"))


def test_array_record_beside_tfrecord_as_the_conversion_leaves_it_is_read(copied):
  folder, config = copied

  def converted(info):
    info.update(fileFormat="tfrecord", alternativeFileFormats=["array_record"])

  edit_json(folder / "dataset_info.json", converted)
  assert open_dataset(config).train[22]["label"] in range(3)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_metadata_is_named(copied, name):
  folder, config = copied
  (folder / name).write_text((folder / name).read_text()[:40])
  with pytest.raises(UserError, match=r"dataset tiny in .* cannot be opened"):
    open_dataset(config)


def test_an_unknown_split_lists_those_that_exist(tiny_config):
  with pytest.raises(UserError, match="no split validation: name one of train, test"):
    open_dataset(dataclasses.replace(tiny_config, eval_split="validation"))


@pytest.mark.parametrize("split", ["train[:0]", "train"])
def test_an_empty_split_is_refused(copied, split):
  folder, config = copied
  if split == "train":
    edit_json(
      folder / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["0"])
    )
  with pytest.raises(UserError, match="of dataset tiny is empty"):
    open_dataset(dataclasses.replace(config, train_split=split))


class Boxes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set without labels of classes."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {"image": tfds.features.Image(), "label": np.float32}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    yield 0, {"image": cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes(), "label": 1}


def test_features_without_classes_are_refused(tmp_path):
  Boxes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  with pytest.raises(UserError, match="has the features image: Image, label: Tensor"):
    open_dataset(DataConfig(dataset="boxes", data_dir=str(tmp_path), eval_split="train"))


def test_a_label_out_of_range_is_named(copied):
  folder, config = copied

  def two_classes(features):
    label = features["featuresDict"]["features"]["label"]
    label["classLabel"]["numClasses"] = "2"

  edit_json(folder / "features.json", two_classes)
  train = open_dataset(config).train
  bad = [index for index in range(len(train)) if not reads(train, index)]
  assert len(bad) == 7  # of 23, every third has label 2
  with pytest.raises(UserError, match=rf"record {bad[0]} of split train .* has the label 2, but"):
    train[bad[0]]


def reads(records, index):
  try:
    records[index]
  except UserError:
    return False
  return True


def test_flipped_bytes_in_a_file_spoil_one_record_and_name_it(copied):
  folder, config = copied
  (file,) = folder.glob("*train*")
  content = bytearray(file.read_bytes())
  content[content.find(b"JFIF") + 100] ^= 0xFF
  file.write_bytes(content)
  train = open_dataset(config).train
  bad = [index for index in range(len(train)) if not reads(train, index)]
  assert len(bad) == 1
  with pytest.raises(UserError, match=rf"record {bad[0]} of split train of dataset tiny cannot"):
    train[bad[0]]


def test_a_file_that_is_gone_is_named(copied):
  folder, config = copied
  (file,) = folder.glob("*test*")
  file.unlink()
  with pytest.raises(UserError, match=r"record 0 of split test of dataset tiny.*No such file"):
    open_dataset(config).eval[0]


def test_an_option_out_of_range_is_refused():
  with pytest.raises(UserError, match=r"data\.image_size is 0, but it must be"):
    open_dataset(DataConfig(dataset="synthetic", image_size=0))


def test_synthetic_records_depend_on_split_and_index_alone():
  config = DataConfig(dataset="synthetic", image_size=8, synthetic_examples=5)
  one, other = open_dataset(config), open_dataset(config)
  assert (one.num_train, one.num_eval, one.num_classes) == (5, 5, 1000)
  assert one.train[3] == other.train[3]
  assert len({record["image"] for split in (one.train, one.eval) for record in split}) == 10


def test_synthetic_images_have_the_size_and_labels_the_range_asked_for():
  config = DataConfig(dataset="synthetic", image_size=8, synthetic_examples=50, synthetic_classes=3)
  records = list(open_dataset(config).train)
  assert {preprocessing.decode(record["image"]).shape for record in records} == {(8, 8, 3)}
  assert {record["label"] for record in records} == {0, 1, 2}
