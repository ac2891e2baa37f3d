"""Dictionaries of arrays in PyTorch's layout <-> Flax variables."""

import functools
import types
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pst_jax.convert.names import Entry, entries
from pst_jax.detection import BINS
from pst_jax.errors import UserError
from pst_jax.layers import PST, PSTBlock, PyramidSparseAttention
from pst_jax.models import Network, create_model
from pst_jax.wording import mismatch

COUNTER = "num_batches_tracked"
"""BatchNorm's counter of training steps in PyTorch, which Flax does not keep."""


def from_torch(model: str | Network, state_dict: dict) -> dict:
  """Flax variables {"params", "batch_stats"} with the values of a PyTorch state dict.

  Args:
    model: a name of `list_models()`, whose number of classes is then read off the state dict, or a
      network made by `create_model`.
    state_dict: {PyTorch name: array}, all of it; dtypes are kept.

  Raises:
    UserError: entries missing, left over or of another shape; it lists their names.
  """
  if isinstance(model, str):
    bias = last_bias(state_dict)
    model = create_model(model, len(state_dict[bias]) if bias else None)
  return _read(network_entries(model), state_dict, network_constants(model))


def to_torch(model: str | Network, variables: dict, *, num_batches_tracked: int = 0) -> dict:
  """The PyTorch state dict {name: np.ndarray}, in PyTorch's order, with the values of `variables`.

  Args:
    model: as in `from_torch`.
    num_batches_tracked: what BatchNorm's counters, which Flax does not keep, come back as.

  Raises:
    UserError: variables missing, left over or of another shape; it lists their names.
  """
  given = flatten_dict(variables)
  if isinstance(model, str):
    last = given.get(("params", *create_model(model).last_bias))
    model = create_model(model, None if last is None else len(last))
  wanted = network_entries(model)
  _check(
    {"/".join((e.collection, *e.path)): e.flax_shape for e in wanted},
    {"/".join(path): np.shape(value) for path, value in given.items()},
    "the Flax variables do",
  )
  state_dict = {}
  for entry in wanted:
    value = np.asarray(given[entry.collection, *entry.path])
    state_dict[entry.name] = np.ascontiguousarray(entry.to_torch(value))
    if entry.name.endswith("running_var"):
      state_dict[_counter_of(entry)] = np.array(num_batches_tracked, np.int64)
  return state_dict | network_constants(model)


def module_from_torch(kind: str, state_dict: dict, *, num_blocks: int | None = None) -> dict:
  """Variables of a single module, for `module.apply(variables, x, upper)`.

  Args:
    kind: `psattn` (PyramidSparseAttention), `psattn_block` (PSTBlock) or `pst` (PST).
    state_dict: {PyTorch name: array}, all of it.
    num_blocks: blocks of a `pst`; None: as many as the state dict has.

  Raises:
    UserError: unknown kind; entries missing, left over or of another shape.
  """
  if kind not in _MODULES:
    raise UserError(f"module kind {kind!r} is unknown: choose one of {', '.join(_MODULES)}")
  try:
    module, channels = _MODULES[kind](state_dict, num_blocks)
  except KeyError as error:
    raise UserError(f"the state dict is no {kind}: its entry {error} is missing") from None
  x, upper = jnp.zeros((1, 2, 2, channels[0])), jnp.zeros((1, 1, 1, channels[1]))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, upper)
  return _read(entries("module", _shapes(shapes)), state_dict)


def _ratio(width, whole):
  """A ratio that int(whole * ratio) takes back to `width`, whatever the rounding."""
  return (width + 0.5) / whole


def _attention(sd, _, prefix=""):
  dim, channels = (sd[prefix + n].shape[0] for n in ("gate_conv1d.weight", "q.conv.weight"))
  return PyramidSparseAttention(channels // dim), (channels, channels)


def _block(sd, _):
  attention, channels = _attention(sd, None, "attn.")
  ratio = _ratio(sd["mlp.0.conv.weight"].shape[0], channels[0])
  return PSTBlock(attention.num_heads, ratio), channels


def _pst(sd, num_blocks):
  inner, features = sd["cv1.conv.weight"].shape[0], sd["cv2.conv.weight"].shape[0]
  if num_blocks is None:
    num_blocks = len({name.split(".")[0] for name in sd if name.startswith("attnlayer_")})
  hidden = sd["attnlayer_0.mlp.0.conv.weight"].shape[0] if num_blocks else 0
  channels = sd["cv1.conv.weight"].shape[1], sd["cvup.conv.weight"].shape[1]
  return PST(features, num_blocks, _ratio(hidden, inner), _ratio(inner, features)), channels


_MODULES = {"psattn": _attention, "psattn_block": _block, "pst": _pst}


def last_bias(names: Iterable[str]) -> str | None:
  """The entry whose length is the number of classes; None: no entry is called like that."""
  found = [name for name in names if name.endswith(("linear.bias", "fc.bias", ".cv3.0.2.bias"))]
  return found[-1] if found else None


# Tracing a network takes up to half a second, and a conversion needs its entries several times.
@functools.lru_cache(maxsize=32)
def network_entries(model: Network) -> tuple[Entry, ...]:
  """The entries of a network's state dict, see `names.entries`."""
  # No parameter's shape depends on the size of the images.
  shapes = jax.eval_shape(model.clone(top_k=0).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  return tuple(entries(model.family, _shapes(shapes)))


def network_constants(model: Network) -> dict[str, np.ndarray]:
  """Entries of a network's state dict that are fixed numbers, not variables; they come last.

  PyTorch's detectors keep the numbers of the bins of a side as the kernel of a convolution.
  """
  if model.task != "detection":
    return {}
  layer = network_entries(model)[-1].name.split(".cv3.")[0]
  return {f"{layer}.dfl.conv.weight": np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1)}


def _shapes(variables):
  return {path: leaf.shape for path, leaf in flatten_dict(variables).items()}


def _counter_of(entry):
  return entry.name.replace("running_var", COUNTER)


def _read(wanted, state_dict, constants=types.MappingProxyType({})):
  counters = {_counter_of(e): () for e in wanted if e.name.endswith("running_var")}
  given = {name: np.shape(value) for name, value in state_dict.items()}
  expected = {e.name: e.shape for e in wanted}
  expected |= {name: value.shape for name, value in constants.items()}
  # PyTorch before 0.4.1 wrote no counters, and safetensors files often leave them out.
  _check(expected | (counters if counters.keys() & given else {}), given, "the state dict does")
  for name, value in constants.items():
    if not np.array_equal(np.asarray(state_dict[name]).astype(value.dtype), value):
      raise UserError(
        f"the entry {name} must hold the numbers 0 to {value.size - 1}, which every detector has, "
        "but it holds others: give weights of an unchanged Detect head"
      )
  flat = {
    (e.collection, *e.path): np.ascontiguousarray(e.from_torch(np.asarray(state_dict[e.name])))
    for e in wanted
  }
  return unflatten_dict(flat)


def _check(expected, given, subject):
  if problems := mismatch(expected, given):
    raise UserError(f"{subject} not fit the network: {problems}")
