import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import cv2
import make_imagenet
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as official

from pst_jax import preprocessing
from pst_jax.errors import UserError
from train.config import DataConfig
from train.data.prepare import imagenet, tars, writing
from train.prepare import main
from train.tasks.classification.data import open_dataset

REPOSITORY = pathlib.Path(__file__).parents[3]
TRAIN, VALIDATION = imagenet.TRAIN_TAR, imagenet.VALIDATION_TAR


def prepare(manual_dir, data_dir, *options):
  main(["imagenet2012", "--manual-dir", str(manual_dir), "--data-dir", str(data_dir), *options])


def records(data_dir, split):
  return open_dataset(DataConfig(data_dir=str(data_dir), train_split=split, eval_split=split)).train


def names_and_labels(data_dir, split):
  names = imagenet.class_names()
  return {
    record["name"].split("(")[1].removesuffix(")"): names[record["label"]]
    for record in records(data_dir, split)
  }


@pytest.fixture(scope="module")
def prepared(tars_dir, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("imagenet")
  prepare(tars_dir, data_dir, "--subset")
  return data_dir


@pytest.fixture
def copied(tars_dir, tmp_path):
  """A copy of the tars that a test may spoil."""
  shutil.copytree(tars_dir, tmp_path / "tars")
  return tmp_path / "tars"


def test_the_stock_builder_reads_it(prepared):
  builder = tfds.builder("imagenet2012", data_dir=prepared)
  train, validation = (builder.as_data_source(split) for split in ("train", "validation"))
  assert (len(train), len(validation)) == (40, 10)
  assert (
    builder.info.features["label"].int2str(train[0]["label"])
    == str(train[0]["file_name"], "ascii").split("_")[0]
  )
  assert train[0]["image"].shape[2] == 3


def test_every_training_image_has_the_label_of_its_tar(prepared):
  assert names_and_labels(prepared, "train") == {
    name: synset for synset, files in make_imagenet.training_images(4).items() for name in files
  }


def test_validation_labels_are_those_of_the_official_list(prepared):
  listed = names_and_labels(prepared, "validation")
  official_label = dict(
    enumerate(official_labels_file().read_text().split(), start=1)  # one line for each image
  )
  assert len(listed) == 10
  for name, synset in listed.items():
    assert synset == official_label[int(name[len("ILSVRC2012_val_") : -len(".JPEG")])]


def official_labels_file():
  return pathlib.Path(official.__file__).with_name("validation_labels.txt")


def test_images_keep_their_bytes(prepared):
  stored = {record["name"].split("(")[1][:-1]: record for record in records(prepared, "train")}
  for files in make_imagenet.training_images(4).values():
    for name, content in files.items():
      if name not in imagenet.TO_REPAIR:
        assert stored[name]["image"] == content


@pytest.mark.parametrize("name", [make_imagenet.CMYK_NAME, make_imagenet.PNG_NAME])
def test_cmyk_and_png_become_rgb_jpegs(prepared, name):
  (image,) = [record["image"] for record in records(prepared, "train") if name in record["name"]]
  with Image.open(io.BytesIO(image)) as opened:
    assert (opened.format, opened.mode) == ("JPEG", "RGB")


def test_cmyk_gives_the_colours_of_tensorflows_formula():
  encoded = make_imagenet.training_images(4)["n02077923"][make_imagenet.CMYK_NAME]
  inverted = 255 - np.asarray(Image.open(io.BytesIO(encoded))).astype(int)  # as Adobe stores it
  expected = inverted[..., :3] * inverted[..., 3:] // 255
  np.testing.assert_allclose(preprocessing.decode(encoded), expected, atol=2)
  # Quality 100 still halves the resolution of the colours, as TensorFlow's default does.
  repaired = preprocessing.decode(imagenet.repair(encoded))
  assert np.abs(repaired - expected).mean() < 10
  np.testing.assert_allclose(repaired.mean((0, 1)), expected.mean((0, 1)), atol=2)


class Stock(official.Builder, skip_registration=True):
  """The official builder's own generator of training examples, written by TFDS's own writer."""

  name = "imagenet2012"
  pkg_dir_path = imagenet.Imagenet2012.pkg_dir_path

  def _split_generators(self, dl_manager):
    def archive():
      with tarfile.open(self.manual_dir / TRAIN) as tar:
        for member in tar:
          yield member.name, tar.extractfile(member)

    return {"train": self._generate_examples(archive())}

  def _fix_image(self, image_fname, image):  # the official one needs TensorFlow
    return io.BytesIO(imagenet.repair(image.read())) if image_fname in imagenet.TO_REPAIR else image


def test_records_order_and_metadata_are_those_of_the_official_builder(tars_dir, prepared, tmp_path):
  Stock.manual_dir = tars_dir
  Stock(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  assert list(records(tmp_path, "train[:100%]")) == list(records(prepared, "train[:100%]"))
  for name in ("features.json", "label.labels.txt"):
    ours, theirs = (
      (folder / "imagenet2012" / "5.1.0" / name).read_text() for folder in (prepared, tmp_path)
    )
    assert ours == theirs


def test_several_shards_hold_the_records_in_the_same_order(
  tars_dir, prepared, tmp_path, monkeypatch
):
  monkeypatch.setattr(writing.shard_utils.ShardConfig, "get_number_shards", lambda *_: 7)
  prepare(tars_dir, tmp_path, "--subset")
  assert len(list((tmp_path / "imagenet2012" / "5.1.0").glob("*train*-of-00007"))) == 7
  assert list(records(tmp_path, "train")) == list(records(prepared, "train"))


def test_imagenet_gets_the_official_number_of_shards():
  for split, size, shards in (("train", 147_897_477_120, 1024), ("validation", 6_744_924_160, 64)):
    count = imagenet.COUNTS[split]
    assert writing.shard_utils.ShardConfig().get_number_shards(size, count) == shards


def test_two_preparations_have_the_same_digests(tars_dir, tmp_path, capsys):
  printed = []
  for name in ("one", "two"):
    prepare(tars_dir, tmp_path / name, "--subset")
    printed.append([line for line in capsys.readouterr().out.splitlines() if "  " in line])
  tables = [[line for line in lines if line.startswith(("train", "valid"))] for lines in printed]
  assert tables[0] == tables[1]
  assert [len(line.split()[-1]) for line in tables[0]] == [64, 64]


def test_another_image_gives_another_digest(tars_dir, copied, tmp_path, capsys):
  checksums = []
  content = bytearray((copied / TRAIN).read_bytes())
  content[content.find(b"JFIF") + 400] ^= 1
  (copied / TRAIN).write_bytes(content)
  for manual_dir, name in ((tars_dir, "one"), (copied, "two")):
    prepare(manual_dir, tmp_path / name, "--subset")
    lines = capsys.readouterr().out.splitlines()
    checksums.append(
      {line.split()[0]: line.split()[-1] for line in lines if "ILSVRC" not in line if line}
    )
  assert checksums[0]["train"] != checksums[1]["train"]
  assert checksums[0]["validation"] == checksums[1]["validation"]


def test_a_prepared_data_set_is_only_read_again(prepared, capsys):
  files = {path: path.stat().st_mtime_ns for path in (prepared / "imagenet2012").rglob("*.a*")}
  prepare("/nowhere", prepared, "--subset")
  assert {path: path.stat().st_mtime_ns for path in files} == files
  assert "40" in capsys.readouterr().out


def test_a_subset_does_not_pass_for_the_whole(prepared):
  with pytest.raises(UserError, match="holds train 40, validation 10 images, but the whole"):
    prepare("/nowhere", prepared)


KILLED = """
import os, signal, sys
from train.data.prepare import imagenet
from train.prepare import main

read, seen = imagenet.TarImages.example, []
def example(self, index):
  seen.append(index)
  if len(seen) > 45:  # the training shard is written, the validation shard is not
    os.kill(os.getpid(), signal.SIGKILL)
  return read(self, index)

imagenet.TarImages.example = example
main(sys.argv[1:])
"""


def test_after_kill_9_the_next_run_starts_over(tars_dir, prepared, tmp_path):
  arguments = ["--manual-dir", str(tars_dir), "--data-dir", str(tmp_path), "--subset"]
  killed = subprocess.run(
    [sys.executable, "-c", KILLED, "imagenet2012", *arguments],
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    stdout=subprocess.DEVNULL,
    timeout=120,
  )
  assert killed.returncode == -9
  (left_over,) = (tmp_path / "imagenet2012").glob("incomplete.*")
  assert list(left_over.glob("*train*"))
  with pytest.raises(UserError, match="dataset imagenet2012 is not in"):
    records(tmp_path, "train")
  prepare(tars_dir, tmp_path, "--subset")
  assert [path.name for path in tmp_path.iterdir()] == ["imagenet2012"]
  assert {path.name for path in (tmp_path / "imagenet2012").iterdir()} == {".lock", "5.1.0"}
  assert list(records(tmp_path, "train")) == list(records(prepared, "train"))


def test_only_one_process_prepares_at_a_time(tars_dir, tmp_path):
  with (
    writing.claim(tmp_path / "imagenet2012"),
    pytest.raises(UserError, match="another process prepares imagenet2012"),
  ):
    prepare(tars_dir, tmp_path, "--subset")


def rewrite(path, change):
  """Rewrites a tar with other members: `change` takes and returns {name: bytes}."""
  with tarfile.open(path) as tar:
    files = {member.name: tar.extractfile(member).read() for member in tar}
  path.write_bytes(make_imagenet.make_tar(change(files)))


def renamed(old, new):
  return lambda files: {new if key == old else key: content for key, content in files.items()}


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
def test_a_missing_tar_is_named(copied, tmp_path, name):
  (copied / name).unlink()
  with pytest.raises(UserError, match=rf"{name} was not found: give the folder"):
    prepare(copied, tmp_path, "--subset")


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_a_tar_cut_short_is_named(copied, tmp_path, name, kept):
  content = (copied / name).read_bytes()
  (copied / name).write_bytes(content[: int(kept * len(content))])
  with pytest.raises(UserError, match=rf"{name} cannot be read as a tar .*: download it again"):
    prepare(copied, tmp_path, "--subset")


def test_a_tar_cut_between_two_files_is_named(copied, tmp_path):
  last = tars.list_members(copied / TRAIN)[-1]
  os.truncate(copied / TRAIN, last.offset - 512)
  with pytest.raises(UserError, match="no header and no end at byte"):
    prepare(copied, tmp_path, "--subset")


def test_a_file_that_is_no_tar_is_named(copied, tmp_path):
  (copied / VALIDATION).write_bytes(b"<html>please log in</html>" * 100)
  with pytest.raises(UserError, match=rf"{VALIDATION} cannot be read as a tar"):
    prepare(copied, tmp_path, "--subset")


def test_a_tar_that_is_a_folder_is_named(copied, tmp_path):
  (copied / VALIDATION).unlink()
  (copied / VALIDATION).mkdir()
  with pytest.raises(UserError, match=rf"{VALIDATION} cannot be read \(Is a directory\)"):
    prepare(copied, tmp_path, "--subset")


def test_an_unknown_class_is_named(copied, tmp_path):
  rewrite(copied / TRAIN, renamed("n01735189.tar", "n00000000.tar"))
  with pytest.raises(UserError, match=r"n00000000\.tar, which is no tar of one of the 1,000"):
    prepare(copied, tmp_path, "--subset")


def test_a_missing_class_is_named(tars_dir, tmp_path):
  with pytest.raises(
    UserError, match=r"holds 10 of the 1,000 classes \(n01440764\.tar is the first"
  ):
    prepare(tars_dir, tmp_path)


def test_a_foreign_image_in_the_tar_of_a_class_is_named(copied, tmp_path):
  def swap(files):
    one, other = sorted(files)[:2]
    return files | {one: files[other]}

  rewrite(copied / TRAIN, swap)
  with pytest.raises(UserError, match=r"n01735189\.tar in .* holds n01751748_.*, which is no im"):
    prepare(copied, tmp_path, "--subset")


def test_a_damaged_tar_of_a_class_is_named(copied, tmp_path):
  rewrite(copied / TRAIN, lambda files: files | {"n01735189.tar": b"\1" * 4096})
  with pytest.raises(UserError, match=r"n01735189\.tar in .* cannot be read as a tar"):
    prepare(copied, tmp_path, "--subset")


def test_a_tar_without_images_is_named(copied, tmp_path):
  rewrite(copied / VALIDATION, lambda files: {})
  with pytest.raises(UserError, match=rf"{VALIDATION} cannot be read as a tar \(no files\)"):
    prepare(copied, tmp_path, "--subset")


def test_a_gap_in_the_validation_names_is_refused(tmp_path):
  names = [imagenet.VALIDATION_NAME.format(number) for number in range(1, 50_001)]
  imagenet.check_official(tmp_path / VALIDATION, names, subset=False)
  with pytest.raises(UserError, match=r"49999 of the 50,000 .*ILSVRC2012_val_00000777\.JPEG is"):
    imagenet.check_official(tmp_path / VALIDATION, names[:776] + names[777:], subset=False)


@pytest.mark.parametrize(
  "name", ["val/ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00050001.JPEG"]
)
def test_a_strange_validation_name_is_refused(copied, tmp_path, name):
  rewrite(copied / VALIDATION, lambda files: files | {name: b""})
  with pytest.raises(UserError, match=rf"{name}, which is no validation image"):
    prepare(copied, tmp_path, "--subset")


def test_too_few_training_images_are_refused(tars_dir):
  found = imagenet.preflight(tars_dir, subset=True)
  with pytest.raises(UserError, match="holds 40 images, but ILSVRC 2012 has 1,281,167"):
    imagenet.index_splits(found)


def test_too_little_space_is_found_before_anything_is_written(tars_dir, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  with pytest.raises(UserError, match=r"needs .* GB in .*, and 1e-06 GB are free"):
    prepare(tars_dir, tmp_path, "--subset")
  assert [path.name for path in (tmp_path / "imagenet2012").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(tars_dir, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"file/data/imagenet2012 cannot be written"):
    prepare(tars_dir, tmp_path / "file" / "data", "--subset")


def test_a_damaged_image_to_repair_is_named(tmp_path):
  encoded = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
  with pytest.raises(UserError, match="an image to repair is damaged"):
    imagenet.repair(encoded[:-20])


DISK_FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # bytes of any file
from pst_jax.errors import run_command
from train.prepare import main
run_command(main, sys.argv[1:])
"""


def test_a_disk_that_fills_up_ends_in_one_sentence_and_leaves_nothing(tars_dir, tmp_path):
  arguments = ["--manual-dir", str(tars_dir), "--data-dir", str(tmp_path), "--subset"]
  full = subprocess.run(
    [sys.executable, "-c", DISK_FULL, "imagenet2012", *arguments],
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert full.returncode == 2
  (line,) = full.stderr.splitlines()
  assert line.startswith("error: ")
  assert "cannot be written" in line
  assert [path.name for path in (tmp_path / "imagenet2012").iterdir()] == [".lock"]
