"""Suppression behind the twins: in PyTorch against golden values, in ONNX against Flax."""

import numpy as np
import onnxruntime
import pytest
import torch
from support import golden_values
from support.quick_jit import quick_jit
from support.small_detector import MODEL, OPTIONS, SIZE, detector_weights, pictures

from pst_jax.inference.detector import Detector
from pst_jax.torch import create_model, export_onnx
from pst_jax.torch.suppression import Suppressed

LIMITS = {"score_threshold": 0.52, "iou_threshold": 0.6}


def test_golden_detections_are_found_in_the_same_order():
  golden = np.load(golden_values.FOLDER / "detection_train.npz")
  module = Suppressed(torch.nn.Identity(), iou_threshold=0.45, score_threshold=0.25)
  boxes, scores, classes, valid = module(torch.from_numpy(golden["nms/in"]))
  assert boxes.shape == (3, 300, 4)
  for image in range(3):
    expected = golden[f"nms/default/{image}"]
    count = len(expected)
    assert valid[image].tolist() == [True] * count + [False] * (300 - count)
    np.testing.assert_array_equal(classes[image, :count], expected[:, 5])
    np.testing.assert_array_equal(scores[image, :count], expected[:, 4])
    np.testing.assert_allclose(boxes[image, :count], expected[:, :4], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_the_onnx_file_with_suppression_finds_what_flax_finds(tmp_path, opset):
  weights = detector_weights()
  twin = create_model(MODEL, top_k=2, **OPTIONS).eval()
  twin.load_state_dict({name: torch.from_numpy(a) for name, a in weights.state_dict().items()})
  export_onnx(twin, tmp_path / "detector.onnx", SIZE, opset=opset, **LIMITS)
  session = onnxruntime.InferenceSession(
    tmp_path / "detector.onnx", providers=["CPUExecutionProvider"]
  )
  images = pictures(3, SIZE, SIZE)
  detector = Detector.from_weights(weights, top_k=2, **LIMITS)
  expected = quick_jit(detector.run)(detector.variables, images)
  assert 3 < np.sum(expected.valid[0]) < 100
  given = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
  for batch in (1, 3):
    found = session.run(["boxes", "scores", "classes", "valid"], {"images": given[:batch]})
    for name, tolerance in {"valid": 0, "classes": 0, "boxes": 1e-2, "scores": 1e-5}.items():
      own = found[expected._fields.index(name)]
      np.testing.assert_allclose(own, getattr(expected, name)[:batch], atol=tolerance, rtol=0)


@pytest.mark.parametrize(
  ("name", "limits", "said"),
  [
    ("yolo11n", {"score_threshold": 2}, "score_threshold is 2, but it must be a number from 0"),
    ("yolo11n", {"score_threshold": 0.5, "iou_threshold": -1}, "iou_threshold is -1"),
    ("resnet18", {"score_threshold": 0.5}, "finds no boxes: leave it out"),
  ],
)
def test_thresholds_that_cannot_be_leave_nothing(tmp_path, name, limits, said):
  twin = create_model(name, num_classes=3, width=0.125)
  with pytest.raises(ValueError, match=said):
    export_onnx(twin, tmp_path / "network.onnx", 64, **limits)
  assert not list(tmp_path.iterdir())
