"""The PyTorch twins as files that run without this project: ONNX and TorchScript.

Both hold the network in evaluation mode with BatchNorm folded into the convolutions, at the top_k
that it has, for images [batch, 3, height, width] of one size, normalised by the caller.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pst_jax.convert.atomic import atomic_write, check_free
from pst_jax.torch.fold import fold_batch_norm
from pst_jax.torch.network import Network

OPSETS = range(18, 24)
"""Versions of ONNX's operators that PyTorch's exporter writes."""


def export_onnx(
  model: Network,
  path: str | os.PathLike,
  image_size: int | tuple[int, int],
  *,
  opset: int = 18,
  force: bool = False,
) -> int:
  """Writes `model` as ONNX: "images" [batch, 3, height, width] -> "logits" [batch, num_classes].

  Both are float32, the batch size is free. `model` itself is not changed. Takes 10 to 20 seconds.

  >>> export_onnx(create_model("r18-cls-pst", top_k=8), "r18.onnx", 224)
  >>> session = onnxruntime.InferenceSession("r18.onnx")
  >>> (logits,) = session.run(None, {"images": images})

  Args:
    model: the network; its top_k is that of the file.
    path: the file, one for graph and weights.
    image_size: side of the images, or (height, width).
    opset: version of ONNX's operators; 18 runs in the oldest runtimes.
    force: replace a file that is there.

  Returns:
    The size of the file in bytes.

  Raises:
    ValueError: the packages of the extra `onnx` are missing; the image size is none, or too small
      for the network's top_k; the opset is none of OPSETS; the file is there and not `force`, or
      cannot be written.
  """
  try:
    import onnx  # noqa: F401
    import onnxscript  # noqa: F401
  except ImportError as error:
    raise ValueError(
      f"writing ONNX needs {error.name}, which is not installed: pip install 'pst_jax[onnx]'"
    ) from None
  if opset not in OPSETS:
    # The exporter would write another version instead, and only log that it did.
    raise ValueError(f"opset is {opset!r}, but it must be from {OPSETS[0]} to {OPSETS[-1]}")
  check_free(path, force=force)
  network, images = _prepare(model, image_size)
  # The exporter by torch.export, not the older one by tracing (dynamo=False, quicker but
  # deprecated): it proves that the batch size is free, where tracing can fix it unnoticed.
  with _quiet(), torch.no_grad():
    program = torch.onnx.export(
      network,
      (images,),
      input_names=["images"],
      output_names=["logits"],
      opset_version=opset,
      dynamic_shapes=({0: torch.export.Dim("batch")},),
      dynamo=True,
      verbose=False,
    )
  content = program.model_proto.SerializeToString()
  with atomic_write(path, force=force) as file:
    file.write(content)
  return len(content)


def export_torchscript(
  model: Network,
  path: str | os.PathLike,
  image_size: int | tuple[int, int],
  *,
  force: bool = False,
) -> int:
  """Writes `model` as TorchScript, for `torch.jit.load` in Python or C++.

  The batch size is free; images of another size raise an error. `model` itself is not changed.

  Args:
    model: the network; its top_k is that of the file.
    path: the file.
    image_size: side of the images, or (height, width).
    force: replace a file that is there.

  Returns:
    The size of the file in bytes.

  Raises:
    ValueError: the image size is none, or too small for the network's top_k; the file is there and
      not `force`, or cannot be written.
  """
  check_free(path, force=force)
  network, images = _prepare(model, image_size)
  with _quiet(), torch.no_grad():
    traced = torch.jit.trace(network, images, check_trace=False)
    content = torch.jit.script(_OneSize(traced, *images.shape[2:])).save_to_buffer()
  with atomic_write(path, force=force) as file:
    file.write(content)
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
      raise ValueError(
        f"images are {images.shape}, but they must be [batch, 3, {self.height}, {self.width}]"
      )
    return self.network(images)


def _prepare(model: Network, image_size: int | tuple[int, int]) -> tuple[nn.Module, Tensor]:
  """The folded network on the CPU, and images of the size that it was seen to take."""
  sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
  if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
    raise ValueError(
      f"image_size is {image_size!r}, but it must be a number of pixels from 1, or two: "
      "(height, width)"
    )
  network = fold_batch_norm(model).float().cpu().requires_grad_(False)
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
