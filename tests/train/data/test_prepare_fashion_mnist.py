import gzip

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pst_jax.errors import UserError
from train.config import DataConfig
from train.prepare import main
from train.tasks.classification.data import open_dataset


def idx(array):
  head = [0x800 + array.ndim, *array.shape]
  return b"".join(n.to_bytes(4, "big") for n in head) + array.astype(np.uint8).tobytes()


IMAGES = {
  split: np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
  for seed, (split, count) in enumerate({"train": 12, "t10k": 3}.items())
}


@pytest.fixture
def source(tmp_path):
  """The four files, the images compressed and the labels not."""
  folder = tmp_path / "source"
  folder.mkdir()
  for split, images in IMAGES.items():
    (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(images)) % 10))
  return folder


def prepare(source, data_dir, *more):
  main(["fashion_mnist", "--source", str(source), "--data-dir", str(data_dir), *more])


def test_tfds_own_builder_reads_the_images_and_labels_in_its_order(source, tmp_path):
  prepare(source, tmp_path, "--subset")
  builder = tfds.builder("fashion_mnist", data_dir=tmp_path, file_format="array_record")
  found = list(builder.as_data_source("train"))
  # TFDS's order: by the MD5 of the split's name and the image's number.
  order = [IMAGES["train"].tolist().index(each["image"][..., 0].tolist()) for each in found]
  assert sorted(order) == list(range(12)) != order
  assert [int(each["label"]) for each in found] == [index % 10 for index in order]


def test_training_reads_it_with_the_names_of_the_classes(source, tmp_path):
  prepare(source, tmp_path, "--subset")
  config = DataConfig(dataset="fashion_mnist", data_dir=str(tmp_path), eval_split="test")
  dataset = open_dataset(config)
  assert dataset.class_names[::9] == ("T-shirt/top", "Ankle boot")
  pixels = dataset.decode(dataset.eval[0]["image"])
  assert any(np.array_equal(pixels[..., 0], image) for image in IMAGES["t10k"])


def test_fewer_images_than_the_whole_set_must_be_asked_for(source, tmp_path):
  with pytest.raises(UserError, match=r"has train 60,000, test 10,000: .* give --subset to keep"):
    prepare(source, tmp_path)


@pytest.mark.parametrize(
  ("file", "content", "said"),
  [
    ("train-images-idx3-ubyte.gz", None, "is not there: give --source"),
    (
      "train-images-idx3-ubyte.gz",
      gzip.compress(idx(IMAGES["train"]), mtime=0)[:-900],
      "cannot be read",
    ),
    ("train-images-idx3-ubyte.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 99, "cannot be read"),
    (
      "train-images-idx3-ubyte.gz",
      gzip.compress(idx(IMAGES["train"])[:-1], mtime=0),
      "says that it has 12",
    ),
    (
      "train-images-idx3-ubyte.gz",
      gzip.compress(idx(IMAGES["train"]) + b"x", mtime=0),
      "says that it has",
    ),
    (
      "train-images-idx3-ubyte.gz",
      gzip.compress(b"x", mtime=0),
      "is no idx file of images of 28 x 28",
    ),
    ("t10k-labels-idx1-ubyte", idx(IMAGES["t10k"]), "is no idx file of labels"),
    ("t10k-labels-idx1-ubyte", idx(np.arange(3))[:4], "is no idx file of labels"),
    ("t10k-labels-idx1-ubyte", idx(np.arange(4)), "3 images and 4 labels of the split test"),
    ("t10k-labels-idx1-ubyte", idx(np.array([1, 10, 2])), "has the label 10 in the split test"),
  ],
)
def test_files_that_are_not_right_are_named_and_nothing_is_written(
  source, tmp_path, file, content, said
):
  if content is None:
    (source / file).unlink()
  else:
    (source / file).write_bytes(content)
  with pytest.raises(UserError, match=said):
    prepare(source, tmp_path, "--subset")
  assert not list(tmp_path.glob("fashion_mnist/3*"))
