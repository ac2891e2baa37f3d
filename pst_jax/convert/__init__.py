"""Weights of PyTorch as Flax variables and back: strict, exact to the bit, and safe to read.

`from_torch`, `to_torch` and `module_from_torch` work on dictionaries of arrays; `read_weights` and
`write_weights` on files and folders whose network is recognised; the others on files of any
entries.
"""

from pst_jax.convert.formats.safetensors_file import (
  SafetensorsFile,
  read_safetensors,
  write_safetensors,
)
from pst_jax.convert.formats.torch_file import (
  TorchFile,
  read_torch_file,
  to_float32,
  write_torch_file,
)
from pst_jax.convert.io import Weights
from pst_jax.convert.io import read as read_weights
from pst_jax.convert.io import write as write_weights
from pst_jax.convert.metadata import Metadata
from pst_jax.convert.recognition import recognize
from pst_jax.convert.state_dict import from_torch, module_from_torch, to_torch

__all__ = [
  "Metadata",
  "SafetensorsFile",
  "TorchFile",
  "Weights",
  "from_torch",
  "module_from_torch",
  "read_safetensors",
  "read_torch_file",
  "read_weights",
  "recognize",
  "to_float32",
  "to_torch",
  "write_safetensors",
  "write_torch_file",
  "write_weights",
]
