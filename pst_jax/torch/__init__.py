"""PyTorch twins of the networks: plain `torch.nn.Module`s that load the same weights.

State-dict names, shapes and order are those of the authors' checkpoints (r*-cls-pst,
yolo11*-cls-pst and the detectors), of YOLO11 and of torchvision (resnet*). Tensors are NCHW. Needs
PyTorch.
"""

from pst_jax.install import how_to_install as _how_to_install

try:
  from torch import nn as _nn  # noqa: F401
except ImportError as error:
  raise ImportError(f"pst_jax.torch needs PyTorch: {_how_to_install('torch')}") from error

from pst_jax.torch.export import export_onnx, export_torchscript, fold_batch_norm
from pst_jax.torch.layers import PST, ConvNorm, PSTBlock, PyramidSparseAttention, set_top_k
from pst_jax.torch.network import Network
from pst_jax.torch.registry import create_model, list_models

__all__ = [
  "PST",
  "ConvNorm",
  "Network",
  "PSTBlock",
  "PyramidSparseAttention",
  "create_model",
  "export_onnx",
  "export_torchscript",
  "fold_batch_norm",
  "list_models",
  "set_top_k",
]
