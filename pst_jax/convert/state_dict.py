"""Dictionaries of arrays in PyTorch's layout <-> Flax variables."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from pst_jax.convert.names import Entry, entries
from pst_jax.layers import PST, PSTBlock, PyramidSparseAttention
from pst_jax.models import create_model

COUNTER = "num_batches_tracked"
"""BatchNorm's counter of training steps in PyTorch, which Flax does not keep."""


def from_torch(model: str | nn.Module, state_dict: dict) -> dict:
  """Flax variables {"params", "batch_stats"} with the values of a PyTorch state dict.

  Args:
    model: a name of `list_models()`, whose number of classes is then read off the state dict, or a
      network made by `create_model`.
    state_dict: {PyTorch name: array}, all of it; dtypes are kept.

  Raises:
    ValueError: entries missing, left over or of another shape; it lists their names.
  """
  if isinstance(model, str):
    bias = last_bias(state_dict)
    model = _named(model, len(state_dict[bias]) if bias else None)
  return _read(network_entries(model), state_dict)


def to_torch(model: str | nn.Module, variables: dict, *, num_batches_tracked: int = 0) -> dict:
  """The PyTorch state dict {name: np.ndarray}, in PyTorch's order, with the values of `variables`.

  Args:
    model: as in `from_torch`.
    variables: {"params", "batch_stats"}.
    num_batches_tracked: what BatchNorm's counters, which Flax does not keep, come back as.

  Raises:
    ValueError: variables missing, left over or of another shape; it lists their names.
  """
  if isinstance(model, str):
    last = variables.get("params", {}).get("head", {}).get("linear", {}).get("bias")
    model = _named(model, None if last is None else len(last))
  wanted = network_entries(model)
  given = flatten_dict(variables)
  expected = {(e.collection, *e.path): e for e in wanted}
  _check(
    {"/".join(path): _flax_shape(entry) for path, entry in expected.items()},
    {"/".join(path): np.shape(value) for path, value in given.items()},
    "the Flax variables do",
  )
  state_dict = {}
  for path, entry in expected.items():
    state_dict[entry.name] = np.ascontiguousarray(entry.axes.to_torch(np.asarray(given[path])))
    if entry.name.endswith("running_var"):
      state_dict[_counter_of(entry)] = np.array(num_batches_tracked, np.int64)
  return state_dict


def module_from_torch(kind: str, state_dict: dict, *, num_blocks: int | None = None) -> dict:
  """Variables of a single module, for `module.apply(variables, x, upper)`.

  Args:
    kind: `psattn` (PyramidSparseAttention), `psattn_block` (PSTBlock) or `pst` (PST).
    state_dict: {PyTorch name: array}, all of it.
    num_blocks: blocks of a `pst`; None: as many as the state dict has.

  Raises:
    ValueError: unknown kind; entries missing, left over or of another shape.
  """
  if kind not in _MODULES:
    raise ValueError(f"module kind {kind!r} is unknown: choose one of {', '.join(_MODULES)}")
  try:
    module, channels = _MODULES[kind](state_dict, num_blocks)
  except KeyError as error:
    raise ValueError(f"the state dict is no {kind}: its entry {error} is missing") from None
  x, upper = jnp.zeros((1, 2, 2, channels[0])), jnp.zeros((1, 1, 1, channels[1]))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, upper)
  return _read(entries("module", _shapes(shapes)), state_dict)


def _attention_fields(sd, prefix=""):
  dim = sd[f"{prefix}gate_conv1d.weight"].shape[0]
  channels = sd[f"{prefix}q.conv.weight"].shape[0]
  return channels, channels // dim


def _ratio(width, whole):
  """A ratio that int(whole * ratio) takes back to `width`, whatever the rounding."""
  return (width + 0.5) / whole


def _attention(sd, _):
  channels, heads = _attention_fields(sd)
  return PyramidSparseAttention(heads), (channels, channels)


def _block(sd, _):
  channels, heads = _attention_fields(sd, "attn.")
  return PSTBlock(heads, _ratio(sd["mlp.0.conv.weight"].shape[0], channels)), (channels, channels)


def _pst(sd, num_blocks):
  inner, features = sd["cv1.conv.weight"].shape[0], sd["cv2.conv.weight"].shape[0]
  if num_blocks is None:
    num_blocks = len({name.split(".")[0] for name in sd if name.startswith("attnlayer_")})
  hidden = sd["attnlayer_0.mlp.0.conv.weight"].shape[0] if num_blocks else 0
  channels = sd["cv1.conv.weight"].shape[1], sd["cvup.conv.weight"].shape[1]
  return PST(features, num_blocks, _ratio(hidden, inner), _ratio(inner, features)), channels


_MODULES = {"psattn": _attention, "psattn_block": _block, "pst": _pst}


def _named(name, num_classes):
  return create_model(name) if num_classes is None else create_model(name, num_classes)


def last_bias(names: Iterable[str]) -> str | None:
  """The entry whose length is the number of classes; None: no entry is called like that."""
  found = [name for name in names if name.endswith(("linear.bias", "fc.bias"))]
  return found[-1] if found else None


# Tracing a network takes up to half a second, and a conversion needs its entries several times.
@functools.lru_cache(maxsize=32)
def network_entries(model: nn.Module) -> tuple[Entry, ...]:
  """The entries of a network's state dict, see `names.entries`."""
  # No parameter's shape depends on the size of the images.
  shapes = jax.eval_shape(model.clone(top_k=0).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  return tuple(entries(model.family, _shapes(shapes)))


def _shapes(variables):
  return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def _flax_shape(entry):
  return entry.axes.from_torch(np.broadcast_to(0, entry.shape)).shape


def _counter_of(entry):
  return entry.name.replace("running_var", COUNTER)


def _read(wanted, state_dict):
  counters = {_counter_of(e): () for e in wanted if e.name.endswith("running_var")}
  # PyTorch before 0.4.1 wrote no counters, and safetensors files often leave them out.
  given = {name: np.shape(value) for name, value in state_dict.items()}
  absent = {
    name: shape for name, shape in counters.items() if not any(c in given for c in counters)
  }
  _check({e.name: e.shape for e in wanted} | counters, given | absent, "the state dict does")
  flat = {
    (e.collection, *e.path): np.ascontiguousarray(e.axes.from_torch(np.asarray(state_dict[e.name])))
    for e in wanted
  }
  return unflatten_dict(flat)


def _check(expected, given, subject):
  wrong = {
    "missing": [name for name in expected if name not in given],
    "left over": [name for name in given if name not in expected],
    "of another shape": [
      f"{name} {tuple(given[name])} instead of {tuple(expected[name])}"
      for name in expected
      if name in given and tuple(given[name]) != tuple(expected[name])
    ],
  }
  problems = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in wrong.items() if names]
  if problems:
    raise ValueError(f"{subject} not fit the network: {'; '.join(problems)}")


def _listed(names, most=20):
  return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
