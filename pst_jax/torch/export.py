"""The PyTorch twins as files that run without this project: ONNX and TorchScript.

Both hold the network in evaluation mode with BatchNorm folded into the convolutions, at the top_k
that it has, for images [batch, 3, height, width] of one size, normalised by the caller (a
detector's: in 0..1). A detector's output is decoded; ONNX also holds non-maximum suppression, if
it is asked for.
"""

import contextlib
import copy
import logging
import os
import warnings
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pst_jax.errors import UserError
from pst_jax.files import check_free, write_output
from pst_jax.install import how_to_install
from pst_jax.ranges import UP_TO_1
from pst_jax.torch.detectors import Detector
from pst_jax.torch.network import Network
from pst_jax.torch.suppression import OUTPUTS, Suppressed, onnx_keep_best

OPSETS = range(18, 24)
"""Versions of ONNX's operators that PyTorch's exporter writes."""


def fold_batch_norm(model: nn.Module) -> nn.Module:
  """A copy of `model` in evaluation mode whose BatchNorms are part of the convolutions before them.

  The copy computes the same with fewer layers; its state dict is no longer that of the manifests.
  """
  folded = copy.deepcopy(model).eval()
  for parent in list(folded.modules()):
    for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
      if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, nn.Identity())
  return folded


def export_onnx(
  model: Network,
  path: str | os.PathLike,
  image_size: int | tuple[int, int],
  *,
  opset: int = 18,
  score_threshold: float | None = None,
  iou_threshold: float = 0.7,
  force: bool = False,
) -> int:
  """Writes `model` as ONNX: "images" [batch, 3, height, width] -> "logits" [batch, num_classes].

  A detector has "detections" [batch, 4 + num_classes, anchors]: cx, cy, w, h in pixels, then
  scores. With a `score_threshold` it has what non-maximum suppression leaves of them, padded to 300
  places: "boxes" [batch, 300, 4] (x1, y1, x2, y2), "scores", "classes" and "valid" [batch, 300].
  The batch size is free. `model` itself is not changed. Takes 10 to 20 seconds.

  >>> export_onnx(create_model("r18-cls-pst", top_k=8), "r18.onnx", 224)
  >>> session = onnxruntime.InferenceSession("r18.onnx")
  >>> (logits,) = session.run(None, {"images": images})

  Args:
    model: the network; its top_k is that of the file.
    path: the file, one for graph and weights.
    image_size: side of the images, or (height, width).
    opset: version of ONNX's operators; 18 runs in the oldest runtimes.
    score_threshold: of a detector: boxes above it are told; None: all, without suppression.
    iou_threshold: a box that overlaps a better one of its class by more is left out.
    force: replace a file that is there.

  Returns:
    The size of the file in bytes.

  Raises:
    UserError: the packages of the extra `onnx` are missing; the image size is none, or too small
      for the network's top_k; the opset is none of OPSETS; a threshold is not from 0 to 1, or for
      a classifier; the file is there and not `force`, or cannot be written.
  """
  try:
    import onnx  # noqa: F401
    import onnxscript  # noqa: F401
  except ImportError as error:
    raise UserError(
      f"writing ONNX needs {error.name}, which is not installed: "
      f"{how_to_install('onnx', 'onnxscript')}"
    ) from None
  if opset not in OPSETS:
    # The exporter would write another version instead, and only log that it did.
    raise UserError(f"opset is {opset!r}, but it must be from {OPSETS[0]} to {OPSETS[-1]}")
  names = ["detections" if isinstance(model, Detector) else "logits"]
  if score_threshold is not None:
    _check_thresholds(model, score_threshold, iou_threshold)
    names = list(OUTPUTS)
  check_free(path, force=force)
  network, images = _prepare(model, image_size)
  if score_threshold is not None:
    network = Suppressed(network, iou_threshold, score_threshold)
  # The exporter by torch.export, not the older one by tracing (dynamo=False, quicker but
  # deprecated): it proves that the batch size is free, where tracing can fix it unnoticed.
  with _quiet(), torch.no_grad():
    program = torch.onnx.export(
      network,
      (images,),
      input_names=["images"],
      output_names=names,
      opset_version=opset,
      dynamic_shapes=({0: torch.export.Dim("batch")},),
      custom_translation_table={torch.ops.pst_jax.keep_best.default: onnx_keep_best},
      dynamo=True,
      verbose=False,
    )
  content = program.model_proto.SerializeToString()
  write_output(path, content, force=force)
  return len(content)


def _check_thresholds(model: Network, score_threshold: float, iou_threshold: float) -> None:
  if not isinstance(model, Detector):
    raise UserError(
      f"score_threshold is {score_threshold}, but a {type(model).__name__} finds no boxes: leave it"
      " out"
    )
  for name, value in {"score": score_threshold, "iou": iou_threshold}.items():
    if not UP_TO_1.allows(value):
      raise UserError(f"{name}_threshold is {value}, but it must be {UP_TO_1.text}")


def export_torchscript(
  model: Network,
  path: str | os.PathLike,
  image_size: int | tuple[int, int],
  *,
  force: bool = False,
) -> int:
  """Writes `model` as TorchScript, for `torch.jit.load` in Python or C++.

  The batch size is free; images of another size raise an error. `model` itself is not changed.
  Arguments, result and errors as `export_onnx`.
  """
  check_free(path, force=force)
  network, images = _prepare(model, image_size)
  with _quiet(), torch.no_grad():
    traced = torch.jit.trace(network, images, check_trace=False)
    content = torch.jit.script(_OneSize(traced, *images.shape[2:])).save_to_buffer()
  write_output(path, content, force=force)
  return len(content)


class _OneSize(nn.Module):
  """Refuses other image sizes: a trace has no border mask if its maps were even, and no check."""

  def __init__(self, network: nn.Module, height: int, width: int):
    super().__init__()
    self.network = network
    self.height = height
    self.width = width

  def forward(self, images: Tensor) -> Tensor:
    if images.shape[1:] != [3, self.height, self.width]:
      raise UserError(
        f"images are {images.shape}, but they must be [batch, 3, {self.height}, {self.width}]"
      )
    return self.network(images)


class _Decoded(nn.Module):
  """A detector that returns its boxes and scores, not its raw maps."""

  def __init__(self, network: Detector):
    super().__init__()
    self.network = network

  def forward(self, images: Tensor) -> Tensor:
    return self.network.decode(self.network(images))


def _prepare(model: Network, image_size: int | tuple[int, int]) -> tuple[nn.Module, Tensor]:
  """The folded network on the CPU, and images of the size that it was seen to take."""
  sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
  if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
    raise UserError(
      f"image_size is {image_size!r}, but it must be a number of pixels from 1, or two: "
      "(height, width)"
    )
  network = fold_batch_norm(model).float().cpu().requires_grad_(False)
  if isinstance(model, Detector):
    network = _Decoded(network)
  images = torch.zeros(2, 3, *sides)  # a batch of 1 would be taken for a constant
  with torch.no_grad():
    network(images)  # its own errors are one sentence, those of the exporters pages
  return network, images


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences what torch tells its own developers while it traces and converts."""
  logger = logging.getLogger("torch.onnx")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logger.setLevel(level)
