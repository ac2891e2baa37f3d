import pytest
from support import golden_values, tiny_weights

from pst_jax.convert import recognize

MANIFESTS = {
  **{name: name for name in ("r18-cls-pst", "r50-cls-pst", "r101-cls-pst")},
  **{f"yolo11{size}-cls-pst": f"yolo11{size}-cls-pst" for size in "nsm"},
  **{f"resnet{depth}": f"torchvision-resnet{depth}" for depth in (18, 34, 50, 101)},
}


def shapes(name, **options):
  return {k: v.shape for k, v in tiny_weights.state_dict(name, **options).items()}


def shapes_of_manifest(name):
  return dict(golden_values.manifest(MANIFESTS[name]))


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_network_is_recognised_from_its_manifest(name):
  expected = {"num_classes": 1000, "stem": "imagenet", "width": 1.0}
  assert recognize(shapes_of_manifest(name)) == (name, expected)


@pytest.mark.parametrize("name", ["resnet26", "resnet26_pst", "resnet50_pst"])
def test_a_network_without_a_manifest_is_recognised(name):
  assert recognize(shapes(name, num_classes=7))[0] == name


def test_the_number_of_classes_is_read_off():
  assert recognize(shapes("resnet18", num_classes=7))[1]["num_classes"] == 7


@pytest.mark.parametrize(("stem", "width"), [("small", 0.25), ("small", 1.0), ("imagenet", 1.5)])
def test_stem_and_width_are_found(stem, width):
  options = {"num_classes": 3, "stem": stem, "width": width}
  assert recognize(shapes("resnet18_pst", **options)) == ("resnet18_pst", options)


def test_only_the_network_asked_for_is_looked_at():
  with pytest.raises(ValueError, match=r"not those of resnet34: .* 80 missing \(layer1.2.conv1"):
    recognize(shapes("resnet18", num_classes=3), "resnet34")


def test_an_unknown_network_is_named():
  with pytest.raises(ValueError, match=r"'resnet19' is unknown.*resnet18"):
    recognize({}, "resnet19")


def test_the_nearest_network_is_named_with_what_differs():
  entries = shapes("resnet18", num_classes=3)
  del entries["layer4.1.bn2.bias"]
  entries["extra.\x1b[2Jthing"] = (1,)
  message = r"nearest .* is resnet18: 101 fit, 1 missing \(layer4.1.bn2.bias\), 1 left over \("
  with pytest.raises(ValueError, match=message + r"extra.\\x1b\[2Jthing\)"):
    recognize(entries)


def test_the_same_names_with_other_shapes_say_so():
  # torchvision's wide_resnet50_2 is such a network.
  entries = shapes("resnet18", num_classes=3)
  entries["layer1.0.conv1.weight"] = (128, 64, 3, 3)
  with pytest.raises(ValueError, match=r"names are those of resnet18, but 1 of 102 shapes are not"):
    recognize(entries)


@pytest.mark.parametrize(
  "name", [f"yolo11{size}{pst}" for size in "nsm" for pst in ("-pst", "")] + ["r18-pst", "r50-pst"]
)
def test_a_detector_is_recognised_from_its_manifest(name):
  # YOLO11's own checkpoints have the names of the controls.
  shapes = dict(golden_values.manifest(name))
  assert recognize(shapes) == (name, {"num_classes": 80, "width": 1.0})


def test_the_number_of_classes_of_a_detector_is_read_off():
  entries = shapes("yolo11n-pst", num_classes=7)
  assert recognize(entries) == ("yolo11n-pst", {"num_classes": 7, "width": 1.0})


def test_a_detector_without_the_numbers_of_its_bins_is_none():
  entries = shapes("yolo11n", num_classes=7)
  del entries["model.23.dfl.conv.weight"]
  with pytest.raises(ValueError, match=r"not those of yolo11n: .* 1 missing \(model.23.dfl"):
    recognize(entries, "yolo11n")


@pytest.mark.parametrize(
  "entries",
  [{}, {"fc.bias": ()}, {"fc.bias": (0,)}, {"conv.weight": (3, 3)}, {"fc.bias": (2, 2)}],
  ids=str,
)
def test_entries_without_classes_are_no_network(entries):
  with pytest.raises(ValueError, match="none of them is the bias of a last layer"):
    recognize(entries)


@pytest.mark.parametrize("entries", [{"fc.bias": (3,)}, {"model.0.linear.bias": (3,)}], ids=str)
def test_a_last_layer_alone_is_no_network(entries):
  with pytest.raises(ValueError, match="no network has exactly these 1 entries; nearest"):
    recognize(entries)
