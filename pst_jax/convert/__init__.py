"""Weights of PyTorch as Flax variables and back: strict, and exact to the bit."""

from pst_jax.convert.state_dict import from_torch, module_from_torch, to_torch

__all__ = ["from_torch", "module_from_torch", "to_torch"]
