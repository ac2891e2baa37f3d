"""The PyTorch twins as files that run without this project: ONNX and TorchScript.

Both hold the network in evaluation mode with BatchNorm folded into the convolutions, at the top_k
that it has, for images of one size: [batch, 3, height, width], normalised by the caller (a
detector's: in 0..1), or with the normalisation inside uint8 [batch, height, width, 3] in RGB. A
detector's output is decoded; non-maximum suppression is inside, if it is asked for.
"""

import contextlib
import copy
import logging
import os
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from pst_jax.torch.suppression import (
  OUTPUTS,
  Suppressed,
  keep_best,
  onnx_keep_best,
  scripted_keep_best,
)

OPSETS = range(18, 24)
"""Versions of ONNX's operators that PyTorch's exporter writes."""
Normalization = tuple[Sequence[float], Sequence[float]]
"""(Mean, standard deviation) of the three channels, in the scale 0 to 1."""


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
  normalization: Normalization | None = None,
  facts: Mapping[str, str] = types.MappingProxyType({}),
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
    normalization: (mean, std) of the channels: "images" are then uint8 [batch, height, width, 3],
      and (images / 255 - mean) / std is inside; None: the caller normalises.
    facts: texts by name, kept in the file (ONNX: metadata_props; TorchScript: _extra_files).
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
    import onnx
    import onnxscript  # noqa: F401
  except ImportError as error:
    raise UserError(
      f"writing ONNX needs {error.name}, which is not installed: "
      f"{how_to_install('onnx', 'onnxscript')}"
    ) from None
  if opset not in OPSETS:
    # The exporter would write another version instead, and only log that it did.
    raise UserError(f"opset is {opset!r}, but it must be from {OPSETS[0]} to {OPSETS[-1]}")
  limits = _limits(model, score_threshold, iou_threshold)
  names = ["detections" if isinstance(model, Detector) else "logits"]
  check_free(path, force=force)
  network, images = _prepare(model, image_size)
  if limits:
    network, names = Suppressed(network, *limits, keep_best), list(OUTPUTS)
  network, images = _from_pixels(network, images, normalization)
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
  written = program.model_proto  # made anew whenever it is asked for
  onnx.helper.set_model_props(written, dict(facts))
  content = written.SerializeToString()
  write_output(path, content, force=force)
  return len(content)


def _limits(
  model: Network, score_threshold: float | None, iou_threshold: float
) -> tuple[float, float] | None:
  """The thresholds for `Suppressed`; None: no suppression was asked for."""
  if score_threshold is None:
    return None
  if not isinstance(model, Detector):
    raise UserError(
      f"score_threshold is {score_threshold}, but a {type(model).__name__} finds no boxes: leave it"
      " out"
    )
  for name, value in {"score": score_threshold, "iou": iou_threshold}.items():
    if not UP_TO_1.allows(value):
      raise UserError(f"{name}_threshold is {value}, but it must be {UP_TO_1.text}")
  return iou_threshold, score_threshold


def export_torchscript(
  model: Network,
  path: str | os.PathLike,
  image_size: int | tuple[int, int],
  *,
  normalization: Normalization | None = None,
  facts: Mapping[str, str] = types.MappingProxyType({}),
  score_threshold: float | None = None,
  iou_threshold: float = 0.7,
  force: bool = False,
) -> int:
  """Writes `model` as TorchScript, for `torch.jit.load` in Python or C++.

  The batch size is free; images of another size raise an error. `model` itself is not changed.
  Arguments, outputs, result and errors as `export_onnx`; several outputs are a tuple in its order.
  """
  limits = _limits(model, score_threshold, iou_threshold)
  check_free(path, force=force)
  network, images = _prepare(model, image_size)
  with _quiet(), torch.no_grad():
    if limits:
      network = Suppressed(network, *limits, scripted_keep_best())
    network, images = _from_pixels(network, images, normalization)
    traced = torch.jit.trace(network, images, check_trace=False)
    sized = (_OneSizeOfBoxes if limits else _OneSize)(traced, list(images.shape[1:]))
    content = torch.jit.script(sized).save_to_buffer(_extra_files=dict(facts))
  write_output(path, content, force=force)
  return len(content)


class _OneSize(nn.Module):
  """Refuses other image sizes: a trace has no border mask if its maps were even, and no check."""

  def __init__(self, network: nn.Module, shape: list[int]):
    super().__init__()
    self.network = network
    self.shape = shape

  def check(self, images: Tensor) -> None:
    if images.shape[1:] != self.shape:
      a, b, c = self.shape
      raise UserError(f"images are {images.shape}, but they must be [batch, {a}, {b}, {c}]")

  def forward(self, images: Tensor) -> Tensor:
    self.check(images)
    return self.network(images)


class _OneSizeOfBoxes(_OneSize):
  """The same, with the outputs of `Suppressed`: TorchScript asks for the type."""

  def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    self.check(images)
    return self.network(images)


class _FromPixels(nn.Module):
  """uint8 [batch, height, width, 3] -> what the network makes of the normalised images."""

  def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
    super().__init__()
    self.network = network
    mean, std = (torch.tensor(each, dtype=torch.float32).view(3, 1, 1) for each in (mean, std))
    # As `pst_jax.inference.predictor.normalize` does it, to the last bit.
    self.register_buffer("scale", 1 / (255 * std))
    self.register_buffer("offset", mean / std)

  def forward(self, images: Tensor):
    return self.network(images.permute(0, 3, 1, 2).float() * self.scale - self.offset)


def _from_pixels(network: nn.Module, images: Tensor, normalization: Normalization | None):
  """The network and images for it, with the normalisation inside if there is one."""
  if normalization is None:
    return network, images
  pixels = torch.zeros(images.permute(0, 2, 3, 1).shape, dtype=torch.uint8)
  return _FromPixels(network, *normalization), pixels


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
