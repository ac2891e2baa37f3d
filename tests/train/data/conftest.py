import dataclasses
import pathlib
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from train.config import DataConfig
from train.tasks.classification.data import dataset_of

tfds.disable_progress_bar()
sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "tools"))  # make_imagenet


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """23 training and 10 test JPEGs of three classes and many sizes, in the real form of TFDS."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(num_classes=3),
      "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(0, 23), "test": self._generate_examples(1, 10)}

  def _generate_examples(self, split, count):
    for index in range(count):
      rng = np.random.default_rng((split, index))
      pixels = rng.integers(256, size=(20 + index, 35 - index, 3), dtype=np.uint8)
      encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
      name = f"{split}-{index}.jpg"
      yield name, {"image": encoded, "label": index % 3, "file_name": name}


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
  """A data_dir that holds the data set `tiny`; tests that change files copy it first."""
  data_dir = tmp_path_factory.mktemp("tiny")
  Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()
  return data_dir


@pytest.fixture(scope="session")
def tars_dir(tmp_path_factory):
  """A folder with the two official tars of a tiny ImageNet; tests that change them copy it."""
  import make_imagenet

  folder = tmp_path_factory.mktemp("tars")
  make_imagenet.make(folder, images_per_class=4)
  return folder


@pytest.fixture
def tiny_config(tiny_dir):
  return DataConfig(
    dataset="tiny", data_dir=str(tiny_dir), eval_split="test", image_size=16, threads=2
  )


@pytest.fixture
def numbered():
  """Makes (data set, config) of `count` images whose label and gray level are their index."""

  def make(count, **options):
    records = [
      {
        "image": cv2.imencode(".png", np.full((8, 8), index, np.uint8))[1].tobytes(),
        "label": index,
        "name": f"record {index}",
      }
      for index in range(count)
    ]
    config = DataConfig(image_size=8, crop="none", eval_crop=1.0, flip=False, threads=2)
    config = dataclasses.replace(config, **options)
    return dataset_of(config, records, records, count), config

  return make
