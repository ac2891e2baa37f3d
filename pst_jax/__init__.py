"""Pyramid Sparse Transformer (arXiv 2505.12772) for JAX and Flax.

What stands here is imported when it is first used, so that `import pst_jax` is quick, and parts
that need no JAX (`pst_jax.errors`, `pst_jax.files`) do not load it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from pst_jax import convert, detection, layers, models, ops
  from pst_jax.compiler import compiler_options
  from pst_jax.fold import fold_batch_norm
  from pst_jax.models import create_model, list_models, summarize
  from pst_jax.pretrained import from_pretrained

__version__ = "0.1.0"
__all__ = [
  "compiler_options",
  "convert",
  "create_model",
  "detection",
  "fold_batch_norm",
  "from_pretrained",
  "layers",
  "list_models",
  "models",
  "ops",
  "summarize",
]

_MODULE_OF = {
  "compiler_options": "compiler",
  "create_model": "models",
  "fold_batch_norm": "fold",
  "from_pretrained": "pretrained",
  "list_models": "models",
  "summarize": "models",
}
"""Where the functions are; every other name of `__all__` is a module."""


def __getattr__(name: str):
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
  value = getattr(module, name) if name in _MODULE_OF else module
  globals()[name] = value  # The next time it is found without this function.
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
