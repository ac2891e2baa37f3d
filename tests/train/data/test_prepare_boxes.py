import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support import box_files
from support.boxes_made import open_box_split

from pst_jax.errors import UserError
from train.data.box_records import COCO_CATEGORY_IDS, box_classes
from train.data.prepared import open_builder
from train.prepare import main

REPOSITORY = pathlib.Path(__file__).parents[3]
WRITERS = {
  "coco": box_files.write_coco,
  "yolo": box_files.write_yolo,
  "voc": box_files.write_voc,
}


def prepare(form, root, data_dir, *more, name="pets"):
  source = {
    "coco": ["--images", f"{root}/images", "--annotations", f"train={root}/train.json",
             f"test={root}/test.json"],
    "yolo": ["--data", f"{root}/data.yaml"],
    "voc": ["--source", str(root)],
  }[form]  # fmt: skip
  main([form, *source, "--name", name, "--data-dir", str(data_dir), *more])


def read(data_dir, split="train", name="pets"):
  folder = data_dir / name / "1.0.0"
  records = list(open_box_split(open_builder(name, folder), split, name))
  return {int(record["file_name"].rsplit("/", 1)[-1].split(".")[0]): record for record in records}


def in_pixels(record):
  size = (box_files.WIDTH, box_files.HEIGHT) * 2
  return [
    (int(label), *np.round(box * size, 3).tolist())
    for label, box in zip(record["classes"], record["boxes"], strict=True)
  ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """The same images and boxes, prepared from each form: data_dir by form."""
  found = {}
  for form, write in WRITERS.items():
    root = write(tmp_path_factory.mktemp(form))
    found[form] = tmp_path_factory.mktemp("data")
    prepare(form, root, found[form])
  return found


@pytest.mark.parametrize("form", WRITERS)
def test_each_form_gives_the_boxes_and_images_of_its_files(form, prepared):
  records = read(prepared[form])
  assert {index: in_pixels(record) for index, record in records.items()} == {
    index: box_files.boxes_of(index) for index in range(4)
  }
  assert all(record["image"] == box_files.jpeg(index) for index, record in records.items())


@pytest.mark.parametrize(("form", "split"), [("coco", "test"), ("yolo", "validation"),
                                             ("voc", "test")])  # fmt: skip
def test_the_other_split_has_the_other_images(form, split, prepared):
  assert sorted(read(prepared[form], split)) == [4, 5]


@pytest.mark.parametrize("form", WRITERS)
def test_an_image_id_belongs_to_one_image(form, prepared):
  ids = [record["image_id"] for record in read(prepared[form]).values()]
  assert len(set(ids)) == 4


def test_records_go_to_another_process(prepared):
  builder = open_builder("pets", prepared["coco"] / "pets" / "1.0.0")
  records = open_box_split(builder, "train", "pets")
  sent = pickle.loads(pickle.dumps(records))
  assert [each["image"] for each in sent] == [each["image"] for each in records]


def test_area_and_outlines_are_those_of_the_annotation(prepared):
  record = read(prepared["coco"])[3]
  assert record["area"].tolist() == [100.25, 100.25, 100.25]
  outline = record["polygons"][1][0] * (box_files.WIDTH, box_files.HEIGHT)
  np.testing.assert_allclose(outline, [[6, 6], [26, 6], [6, 16]], atol=1e-4)


def test_without_an_area_it_is_that_of_the_box(prepared):
  for form in ("yolo", "voc"):
    np.testing.assert_allclose(read(prepared[form])[3]["area"], 200, rtol=1e-5)


def test_category_ids_and_names_are_kept_in_the_order_of_the_ids(prepared):
  builder = open_builder("pets", prepared["coco"] / "pets" / "1.0.0")
  classes = box_classes(builder.info)
  assert classes.names == box_files.CLASSES
  assert classes.category_ids == box_files.CATEGORY_IDS


def test_nothing_is_written_anew_for_a_prepared_data_set(prepared, tmp_path, capsys):
  data_dir = prepared["voc"]
  before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*array_record*")}
  prepare("voc", tmp_path / "gone", data_dir)
  assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*array_record*")} == before
  assert "checking pets train: 4 images" in capsys.readouterr().out


def test_tensorflow_is_not_imported(tmp_path):
  root = box_files.write_voc(tmp_path / "voc")
  code = (
    "import sys\n"
    "from train.prepare import main\n"
    f"main(['voc', '--source', {str(root)!r}, '--name', 'pets', '--data-dir', {str(tmp_path)!r}])\n"
    "assert 'tensorflow' not in sys.modules"
  )
  environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
  subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_one_coco_file_has_every_tenth_image_split_off(tmp_path):
  box_files.write_images(tmp_path / "images", range(20))
  (tmp_path / "all.json").write_text(json.dumps(box_files.coco_json(range(20))))
  arguments = ["--images", f"{tmp_path}/images", "--annotations", f"{tmp_path}/all.json"]
  main(["coco", *arguments, "--name", "pets", "--data-dir", str(tmp_path)])
  train, test = read(tmp_path), read(tmp_path, "test")
  assert len(test) == 2
  assert sorted([*train, *test]) == list(range(20))


def test_coco_2017_is_read_from_its_zips_in_place(tmp_path, capsys):
  root = box_files.write_coco_zips(tmp_path / "zips")
  main(["coco", "--manual-dir", str(root), "--subset", "--data-dir", str(tmp_path)])
  assert sorted(read(tmp_path, "train", "coco2017")) == [0, 1, 2, 3]
  assert in_pixels(read(tmp_path, "validation", "coco2017")[5]) == box_files.boxes_of(5)
  assert sorted(path.name for path in root.iterdir()) == [
    "annotations_trainval2017.zip", "train2017.zip", "val2017.zip"]  # fmt: skip


def test_zips_of_another_number_of_images_are_refused_before_anything_is_written(tmp_path):
  root = box_files.write_coco_zips(tmp_path / "zips")
  with pytest.raises(UserError, match=r"train2017.zip holds 4 images, but COCO 2017 has 118,287"):
    main(["coco", "--manual-dir", str(root), "--data-dir", str(tmp_path / "data")])
  assert not list((tmp_path / "data" / "coco2017").glob("*.*.*"))


@pytest.mark.parametrize("name", ["train2017.zip", "annotations_trainval2017.zip"])
def test_a_zip_cut_short_is_named(name, tmp_path):
  root = box_files.write_coco_zips(tmp_path / "zips")
  content = (root / name).read_bytes()
  (root / name).write_bytes(content[: len(content) // 2])
  with pytest.raises(UserError, match=rf"{name} cannot be read as a zip"):
    main(["coco", "--manual-dir", str(root), "--subset", "--data-dir", str(tmp_path / "data")])


def test_a_damaged_image_in_a_zip_leaves_no_data_set(tmp_path):
  root = box_files.write_coco_zips(tmp_path / "zips")
  content = bytearray((root / "train2017.zip").read_bytes())
  content[200] ^= 0xFF  # within the first image
  (root / "train2017.zip").write_bytes(content)
  with pytest.raises(UserError, match=r"train2017/0.jpg in .*train2017.zip cannot be read"):
    main(["coco", "--manual-dir", str(root), "--subset", "--data-dir", str(tmp_path / "data")])
  assert not list((tmp_path / "data" / "coco2017").glob("*.*.*"))


class TfdsCoco(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The features of TFDS's own `coco/2017`, with whole areas and no outlines."""

  name = "coco"
  VERSION = tfds.core.Version("1.1.0")

  def _info(self):
    objects = {
      "area": np.int64,
      "bbox": tfds.features.BBoxFeature(),
      "id": np.int64,
      "is_crowd": np.bool_,
      "label": tfds.features.ClassLabel(num_classes=80),
    }
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "image/id": np.int64,
      "objects": tfds.features.Sequence(objects),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=1.0)
    found = {"area": 77, "bbox": box, "id": 5, "is_crowd": True, "label": 79}
    yield 0, {"image": box_files.jpeg(1), "image/filename": "1.jpg", "image/id": 9,
              "objects": [found]}  # fmt: skip


def test_tfdss_own_coco_is_read_as_it_is(tmp_path):
  builder = TfdsCoco(data_dir=tmp_path, file_format="array_record")
  builder.download_and_prepare()
  opened = open_builder("coco", builder.data_path)
  (record,) = open_box_split(opened, "train", "coco")
  np.testing.assert_allclose(record["boxes"], [[0.2, 0.1, 1.0, 0.5]], rtol=1e-6)
  assert (record["area"].tolist(), record["crowd"].tolist(), record["image_id"]) == (
    [77.0],
    [True],
    9,
  )
  assert record["polygons"] == ((),)
  assert box_classes(opened.info).category_ids == COCO_CATEGORY_IDS


def test_cocos_eighty_ids_end_at_ninety():
  assert len(COCO_CATEGORY_IDS) == 80
  assert COCO_CATEGORY_IDS[-1] == 90
