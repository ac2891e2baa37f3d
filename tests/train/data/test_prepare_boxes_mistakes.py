import json

import pytest
from support import box_files
from test_prepare_boxes import WRITERS, in_pixels, prepare, read

from pst_jax.errors import UserError
from train.prepare import main


def change_box(**values):
  return lambda content: content["annotations"][-1].update(values)


def replace(old, new):
  return lambda text: text.replace(old, new)


def last_line(line):
  return lambda lines: [*lines[:-1], line]


BAD_BOXES = {
  "coco": {
    "boxes without area": change_box(bbox=[5, 5, 0, 4]),
    "boxes outside their image": change_box(bbox=[50, 5, 30, 4]),
    "boxes of an unknown class": change_box(category_id={"id": 3}),
    "boxes of no image": change_box(image_id=[1003]),
    "duplicate boxes": change_box(bbox=[6, 6, 20, 10], category_id=7),
    "boxes that are no finite numbers": change_box(bbox=[5, 5, float("nan"), 4]),
  },
  "yolo": {
    "boxes without area": last_line("0 0.5 0.5 0 0.1"),
    "boxes outside their image": last_line("0 0.9 0.5 0.4 0.1"),
    "boxes of an unknown class": last_line("3 0.5 0.5 0.1 0.1"),
    "duplicate boxes": lambda lines: [*lines[:-1], lines[0]],
  },
  "voc": {
    "boxes without area": replace("<xmin>12</xmin>", "<xmin>31</xmin>"),
    "boxes outside their image": replace("<xmax>31</xmax>", "<xmax>70</xmax>"),
  },
}
CASES = [(form, kind, change) for form, each in BAD_BOXES.items() for kind, change in each.items()]


@pytest.mark.parametrize(("form", "kind", "change"), CASES)
def test_a_bad_box_is_named_and_nothing_is_written(form, kind, change, tmp_path):
  root = WRITERS[form](tmp_path / "source", change)
  with pytest.raises(UserError, match=rf"{kind} \(1\), such as .*--on-bad-box skip"):
    prepare(form, root, tmp_path)
  assert not list((tmp_path / "pets").glob("*.*.*"))


@pytest.mark.parametrize(("form", "kind", "change"), CASES)
def test_a_bad_box_is_counted_and_left_out(form, kind, change, tmp_path, capsys):
  root = WRITERS[form](tmp_path / "source", change)
  prepare(form, root, tmp_path, "--on-bad-box", "skip")
  assert in_pixels(read(tmp_path)[3]) == box_files.boxes_of(3)[:2]
  assert f"1 {kind}, such as" in capsys.readouterr().out


def test_one_of_each_kind_is_named(tmp_path):
  root = box_files.write_coco(tmp_path / "source", change_box(bbox=[5, 5, 0, 4]))
  (root / "images" / "2.jpg").unlink()
  with pytest.raises(UserError) as refused:
    prepare("coco", root, tmp_path)
  assert "missing images (1), such as 2.jpg" in str(refused.value)
  assert "boxes without area (1), such as " in str(refused.value)


def test_two_images_of_one_id_are_refused_also_when_skipping(tmp_path):
  """Nobody can tell whose boxes are whose."""
  root = box_files.write_coco(
    tmp_path / "source", lambda content: content["images"][2].update(id=1001)
  )
  with pytest.raises(UserError, match=r"two images of the id 1001, 1.jpg and 2.jpg"):
    prepare("coco", root, tmp_path, "--on-bad-box", "skip")


@pytest.mark.parametrize("outline", [[0] * 8, [70, 5, 90, 5, 80, 9]])
def test_an_outline_of_no_area_is_none(outline, tmp_path):
  """Some programs write zeros where they have no outline; the box is what is trained on."""
  root = box_files.write_coco(tmp_path / "source", change_box(segmentation=[outline]))
  prepare("coco", root, tmp_path)
  assert read(tmp_path)[3]["polygons"][-1] == ()


@pytest.mark.parametrize(("written", "crowd"), [("0", False), ("1", True), (None, False)])
def test_a_crowd_is_told_from_what_programs_write(written, crowd, tmp_path):
  root = box_files.write_coco(tmp_path / "source", change_box(iscrowd=written))
  prepare("coco", root, tmp_path)
  assert read(tmp_path)[3]["crowd"].tolist() == [False, False, crowd]


def test_names_with_blanks_are_read_from_the_lists_of_voc(tmp_path):
  root = box_files.write_voc(tmp_path / "source")
  for path in (root / "JPEGImages" / "2.jpg", root / "Annotations" / "2.xml"):
    path.rename(path.with_stem("2. my cat"))
  (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1  1\n2. my cat\n3 -1\n")
  prepare("voc", root, tmp_path)
  assert in_pixels(read(tmp_path)[2]) == box_files.boxes_of(2)


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_texts_that_windows_wrote_are_read(form, tmp_path):
  root = WRITERS[form](tmp_path / "source")
  for path in root.rglob("*.txt"):
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
  prepare(form, root, tmp_path)
  assert in_pixels(read(tmp_path)[3]) == box_files.boxes_of(3)


def test_a_class_whose_name_cannot_be_written_is_refused(tmp_path):
  root = box_files.write_coco(
    tmp_path / "source", lambda content: content["categories"][0].update(name="\ud800")
  )
  with pytest.raises(UserError, match="UTF-8"):
    prepare("coco", root, tmp_path)


def test_key_points_are_refused(tmp_path):
  root = box_files.write_yolo(tmp_path / "source")
  with open(root / "data.yaml", "a") as file:
    file.write("kpt_shape: [4, 2]\n")
  with pytest.raises(UserError, match="key points are not read"):
    prepare("yolo", root, tmp_path)


def test_a_class_that_training_does_not_have_is_unknown_in_voc(tmp_path):
  root = box_files.write_voc(tmp_path / "source")
  xml = root / "Annotations" / "5.xml"
  xml.write_text(xml.read_text().replace("cat", "yak"))
  with pytest.raises(UserError, match=r"boxes of an unknown class \(1\), such as .*yak"):
    prepare("voc", root, tmp_path)


@pytest.mark.parametrize(("form", "name"), [("coco", "images/2.jpg"), ("voc", "JPEGImages/2.jpg")])
def test_a_missing_image_is_named_or_left_out_with_its_boxes(form, name, tmp_path):
  root = WRITERS[form](tmp_path / "source")
  (root / name).unlink()
  with pytest.raises(UserError, match=r"missing images \(1\), such as 2"):
    prepare(form, root, tmp_path)
  prepare(form, root, tmp_path, "--on-bad-box", "skip")
  assert sorted(read(tmp_path)) == [0, 1, 3]


def test_an_image_that_is_listed_twice_is_named_or_kept_once(tmp_path):
  root = box_files.write_coco(
    tmp_path / "source", lambda content: content["images"].append(content["images"][1])
  )
  with pytest.raises(UserError, match=r"duplicate images \(1\), such as 1.jpg"):
    prepare("coco", root, tmp_path)
  prepare("coco", root, tmp_path, "--on-bad-box", "skip")
  assert in_pixels(read(tmp_path)[1]) == box_files.boxes_of(1)


def test_a_json_cut_short_is_named(tmp_path):
  root = box_files.write_coco(tmp_path / "source")
  text = (root / "train.json").read_text()
  (root / "train.json").write_text(text[: len(text) // 2])
  with pytest.raises(UserError, match=r"train.json is no whole JSON"):
    prepare("coco", root, tmp_path)


def to_shares(content):
  for each in content["annotations"]:
    x, y, width, height = each["bbox"]
    each["bbox"] = [x / 60, y / 40, width / 60, height / 40]


def test_shares_in_the_place_of_pixels_are_refused_also_when_skipping(tmp_path):
  root = box_files.write_coco(tmp_path / "source", to_shares)
  with pytest.raises(UserError, match=r"look like shares of the image.*in pixels"):
    prepare("coco", root, tmp_path, "--on-bad-box", "skip")


def test_pixels_in_the_place_of_shares_are_refused_also_when_skipping(tmp_path):
  root = box_files.write_yolo(tmp_path / "source")
  for path in (root / "labels" / "train").iterdir():
    path.write_text("1 20 20 10 10\n")
  with pytest.raises(UserError, match=r"look like pixels.*shares"):
    prepare("yolo", root, tmp_path, "--on-bad-box", "skip")


def test_images_of_another_size_than_the_labelled_ones_are_refused(tmp_path):
  root = box_files.write_coco(tmp_path / "source")
  (root / "images" / "2.jpg").write_bytes(box_files.jpeg(2, height=80, width=120))
  with pytest.raises(UserError, match=r"2.jpg has 80 x 120 pixels, .* 40 x 60"):
    prepare("coco", root, tmp_path)
  assert not list((tmp_path / "pets").glob("*.*.*"))


def test_a_file_that_is_no_image_is_named(tmp_path):
  root = box_files.write_yolo(tmp_path / "source")
  (root / "images" / "train" / "2.jpg").write_bytes(b"no image")
  with pytest.raises(UserError, match=r"2.jpg is no image"):
    prepare("yolo", root, tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "a\0b", 7, None])
def test_a_path_out_of_the_images_folder_is_refused(name, tmp_path):
  root = box_files.write_coco(
    tmp_path / "source", lambda content: content["images"][0].update(file_name=name)
  )
  with pytest.raises(UserError, match=r"no path inside the images' folder"):
    prepare("coco", root, tmp_path)


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (lambda content: content.pop("annotations"), "no list `annotations`"),
    (lambda content: content.update(images=[3]), "no list `images`"),
    (change_box(bbox="1 2 3 4"), "whose bbox is '1 2 3 4'"),
    (change_box(bbox=[1, 2, 3]), "4 numbers are needed"),
    (change_box(segmentation=[["a", "b"]]), "no list of polygons"),
    (lambda content: content["images"][0].update(width="wide"), "whose width is 'wide'"),
    (lambda content: content["images"][0].update(id="x"), "whose id is 'x'"),
    (lambda content: content["categories"][0].update(name="cat"), "two classes called cat"),
    (lambda content: content["categories"][0].update(id=3), "two categories of one id"),
    (lambda content: content.update(categories=[]), "names no classes"),
  ],
)
def test_annotations_in_another_form_are_named(change, sentence, tmp_path):
  root = box_files.write_coco(tmp_path / "source", change)
  with pytest.raises(UserError, match=sentence):
    prepare("coco", root, tmp_path)


def test_splits_of_other_categories_are_refused(tmp_path):
  root = box_files.write_coco(tmp_path / "source")
  content = json.loads((root / "test.json").read_text())
  content["categories"][0]["name"] = "newt"
  (root / "test.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=r"test.json has other categories than .*train.json"):
    prepare("coco", root, tmp_path)


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("train: [", "is no YAML"),
    ("- 1", "has no keys"),
    ("train: images/train\nval: images/val\n", "no list `names`"),
    ("train: images/train\nnames: [a]\n", "no `train` and `val`"),
    ("train: nowhere\nval: images/val\nnames: [a]\n", "no folder and no list"),
    ("train: images/train\nval: images/val\nnames: {1: a}\n", "otherwise than 0, 1, 2"),
    ("train: images/train\nval: images/val\nnc: 4\nnames: [a, b, c]\n", "nc 4, but 3 names"),
  ],
)
def test_a_wrong_data_yaml_is_named(text, sentence, tmp_path):
  root = box_files.write_yolo(tmp_path / "source")
  (root / "data.yaml").write_text(text)
  with pytest.raises(UserError, match=sentence):
    prepare("yolo", root, tmp_path)


@pytest.mark.parametrize("line", ["1 0.5 0.5 0.1", "one 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1"])
def test_a_line_that_is_no_label_is_named(line, tmp_path):
  root = box_files.write_yolo(tmp_path / "source", last_line(line))
  with pytest.raises(UserError, match=r"line 3 of .*3.txt .*is no class with a box"):
    prepare("yolo", root, tmp_path)


def test_images_without_any_labels_are_refused(tmp_path):
  root = box_files.write_yolo(tmp_path / "source")
  (root / "labels").rename(root / "texts")
  with pytest.raises(UserError, match=r"no image has a file of labels"):
    prepare("yolo", root, tmp_path)


def test_an_outline_of_yolo_has_its_extent_as_box(tmp_path):
  outline = "0 0.1 0.1 0.5 0.2 0.3 0.6"
  root = box_files.write_yolo(tmp_path / "source", last_line(outline))
  prepare("yolo", root, tmp_path)
  record = read(tmp_path)[3]
  assert in_pixels(record)[-1] == (0, 6.0, 4.0, 30.0, 24.0)
  assert record["polygons"][-1][0].shape == (3, 2)
  # Of the triangle, and not of its box of 480 pixels.
  assert record["area"][-1] == pytest.approx(216, rel=1e-3)


@pytest.mark.parametrize("missing", ["Annotations", "JPEGImages"])
def test_a_folder_that_voc_has_is_named(missing, tmp_path):
  root = box_files.write_voc(tmp_path / "source")
  (root / missing).rename(root / "other")
  with pytest.raises(UserError, match=f"has no folder {missing}"):
    prepare("voc", root, tmp_path)


def test_an_xml_cut_short_is_named(tmp_path):
  root = box_files.write_voc(tmp_path / "source", lambda text: text[:100])
  with pytest.raises(UserError, match=r"3.xml is no whole XML"):
    prepare("voc", root, tmp_path)


@pytest.mark.parametrize(
  "arguments",
  [
    ["coco", "--images", "x"],
    ["coco", "--manual-dir", "x", "--images", "x", "--annotations", "y"],
    ["coco"],
  ],
)
def test_coco_needs_zips_or_images_with_annotations(arguments, tmp_path):
  with pytest.raises(UserError, match="give either --manual-dir"):
    main([*arguments, "--data-dir", str(tmp_path)])


@pytest.mark.parametrize("name", ["coco", "digit_scenes", "Pets", "digits"])
def test_a_name_that_is_taken_or_no_name_is_refused(name, tmp_path):
  root = box_files.write_voc(tmp_path / "source")
  with pytest.raises(UserError, match=f"--name is {name}"):
    prepare("voc", root, tmp_path, name=name)
