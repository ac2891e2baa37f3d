"""Weights of PyTorch as Flax variables and back: strict, exact to the bit, and safe to read.

`from_torch`, `to_torch` and `module_from_torch` work on dictionaries of arrays; `read_weights` and
`write_weights` on files whose network is recognised; the others on files of any entries.
"""

from pst_jax.convert.metadata import Metadata
from pst_jax.convert.recognition import recognize
from pst_jax.convert.safetensors_file import SafetensorsFile, read_safetensors, write_safetensors
from pst_jax.convert.state_dict import from_torch, module_from_torch, to_torch
from pst_jax.convert.torch_file import TorchFile, read_torch_file, to_float32, write_torch_file
from pst_jax.convert.weights import Weights, read_weights, write_weights

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
