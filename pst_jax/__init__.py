"""Pyramid Sparse Transformer (arXiv 2505.12772) for JAX and Flax."""

from pst_jax import convert, layers, ops
from pst_jax.compiler import compiler_options
from pst_jax.fold import fold_batch_norm
from pst_jax.models import create_model, list_models, summarize

__version__ = "0.1.0"
__all__ = [
  "compiler_options",
  "convert",
  "create_model",
  "fold_batch_norm",
  "layers",
  "list_models",
  "ops",
  "summarize",
]
