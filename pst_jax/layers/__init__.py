"""Flax modules: the building block ConvNorm, and the Pyramid Sparse Transformer."""

from pst_jax.layers.base import Layer
from pst_jax.layers.conv_norm import ConvNorm
from pst_jax.layers.norm import BatchNorm
from pst_jax.layers.pst import PST, PSTBlock, PyramidSparseAttention

__all__ = ["PST", "BatchNorm", "ConvNorm", "Layer", "PSTBlock", "PyramidSparseAttention"]
