"""Non-maximum suppression behind a detector, with fixed shapes, for its ONNX and TorchScript."""

import functools

import torch
from torch import Tensor, nn

MAX_DETECTIONS = 300
OUTPUTS = ("boxes", "scores", "classes", "valid")


def _keep_best(
  boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
  """1 for the boxes that stay and 0 for the others [B, classes, N], class by class.

  The best box of a score above the threshold stays, and what overlaps it by more than
  `iou_threshold` goes; and so on with the best of the rest. In ONNX it is one operator; TorchScript
  compiles what stands here.

  Boxes are x1, y1, x2, y2 [B, N, 4], scores [B, classes, N].
  """
  kept = torch.zeros_like(scores)
  sides = boxes[..., 2:] - boxes[..., :2]
  areas = sides.prod(-1)
  for place in (scores > score_threshold).any(-1).nonzero():
    image, label = int(place[0]), int(place[1])
    left = scores[image, label].where(scores[image, label] > score_threshold, -1.0)
    best = int(left.argmax())
    while float(left[best]) >= 0:
      kept[image, label, best] = 1
      low = torch.maximum(boxes[image, :, :2], boxes[image, best, :2])
      high = torch.minimum(boxes[image, :, 2:], boxes[image, best, 2:])
      shared = (high - low).clamp(min=0).prod(-1)
      beaten = shared / (areas[image] + areas[image, best] - shared) > iou_threshold
      left = left.masked_fill(beaten, -1.0)
      left[best] = -1.0
      best = int(left.argmax())
  return kept


keep_best = torch.library.custom_op("pst_jax::keep_best", _keep_best, mutates_args=())


@functools.cache
def scripted_keep_best():
  """`keep_best` for TorchScript, which takes no operator of ours."""
  return torch.jit.script(_keep_best)


@keep_best.register_fake
def _(boxes, scores, iou_threshold, score_threshold):
  return torch.empty_like(scores)


def onnx_keep_best(boxes, scores, iou_threshold, score_threshold):
  """`keep_best` in ONNX's operators; for the exporter's table of translations."""
  from onnxscript import opset18 as op

  most = op.Constant(value_ints=[MAX_DETECTIONS])
  thresholds = (op.Constant(value_floats=[each]) for each in (iou_threshold, score_threshold))
  chosen = op.NonMaxSuppression(boxes, scores, most, *thresholds)
  ones = op.Expand(op.Constant(value_float=1.0), op.Shape(chosen, end=1))
  return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), chosen, ones)


class Suppressed(nn.Module):
  """A module of decoded boxes and scores [B, 4 + classes, N] with suppression behind it.

  Each box counts for its best class alone. The results are padded to `MAX_DETECTIONS` places, in
  falling score: boxes [B, 300, 4] (x1, y1, x2, y2), scores, classes and whether a place is taken
  [B, 300].
  """

  def __init__(
    self, decoded: nn.Module, iou_threshold: float, score_threshold: float, keep=keep_best
  ):
    super().__init__()
    self.decoded = decoded
    self.keep = keep
    self.iou_threshold = iou_threshold
    self.score_threshold = score_threshold

  def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    centres, sides, scores = self.decoded(images).tensor_split((2, 4), 1)
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), 1).transpose(1, 2)
    classes = scores.argmax(1)
    numbers = torch.arange(scores.shape[1], device=scores.device)[:, None]
    scores = scores.where(classes[:, None] == numbers, 0.0)
    kept = scores * self.keep(boxes, scores, self.iou_threshold, self.score_threshold)
    scores, index = kept.amax(1).topk(min(MAX_DETECTIONS, kept.shape[2]), 1)
    valid = scores > 0
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4)) * valid[..., None]
    room = MAX_DETECTIONS - index.shape[1]
    columns = scores, classes.gather(1, index) * valid, valid
    boxes = nn.functional.pad(boxes, (0, 0, 0, room))
    return boxes, *(nn.functional.pad(each, (0, room)) for each in columns)
