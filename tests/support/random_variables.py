"""Variables for a module without compiling its initialisation."""

import zlib

import jax
import numpy as np


def random_variables(module, *inputs, seed=0):
  """Values for every variable of `module`, decided by their names and by the seed.

  Kernels keep the size of activations, norms have scales and variances around 1; nothing is 0.
  """
  shapes = jax.eval_shape(lambda key: module.init(key, *inputs), jax.random.key(0))
  return jax.tree_util.tree_map_with_path(lambda path, leaf: _value(path, leaf, seed), shapes)


def _value(path, leaf, seed):
  names = [entry.key for entry in path]
  rng = np.random.RandomState([zlib.crc32("/".join(names).encode()), seed])
  if names[-1] in ("var", "scale"):
    value = rng.uniform(0.5, 1.5, leaf.shape)
  elif len(leaf.shape) > 1:
    value = rng.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
  else:
    value = 0.1 * rng.standard_normal(leaf.shape)
  return value.astype(leaf.dtype)
