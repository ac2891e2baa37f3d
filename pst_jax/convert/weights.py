"""Weights of one network, from and to files: a .pt or .pth of PyTorch, or a .safetensors."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pst_jax.convert.atomic import check_free
from pst_jax.convert.metadata import Metadata
from pst_jax.convert.pickle_globals import printable
from pst_jax.convert.recognition import recognize
from pst_jax.convert.safetensors_file import read_safetensors, write_safetensors
from pst_jax.convert.state_dict import COUNTER, from_torch, last_bias, to_torch
from pst_jax.convert.torch_file import read_torch_file, to_float32, write_torch_file
from pst_jax.models import Network, create_model

_WRITERS = {".safetensors": write_safetensors, ".pt": write_torch_file, ".pth": write_torch_file}
SUFFIXES = tuple(_WRITERS)


class WeightFile(NamedTuple):
  """A file as it is: nothing is recognised, converted or checked yet.

  Attributes:
    form: of the file, in words.
    state_dict: {entry name: array}, in the file's types.
    block: the metadata block, ours or (safetensors) anybody's; None: there is none.
    facts: what else the file says, see `read_torch_file`.
  """

  form: str
  state_dict: dict[str, np.ndarray]
  block: dict | None
  facts: dict


@dataclass(frozen=True)
class Weights:
  """Weights in the form that Flax takes, and the facts about them.

  Attributes:
    variables: {"params", "batch_stats"} of NumPy arrays in float32.
    metadata: what they are.
  """

  variables: dict
  metadata: Metadata

  def network(self, **options) -> Network:
    """The network that the variables belong to, e.g. `weights.network(top_k=8)`."""
    return create_model(self.metadata.model, **self.metadata.options, **options)

  def state_dict(self) -> dict[str, np.ndarray]:
    """PyTorch's {entry name: array}, in the order of the manifest."""
    counter = self.metadata.num_batches_tracked
    return to_torch(self.network(), self.variables, num_batches_tracked=counter)


def read_weight_file(path: str | os.PathLike, *, ema: bool | None = None) -> WeightFile:
  """Reads any file of weights; the form is told from the content, not from the name.

  Args:
    path: a .pt, .pth or .safetensors.
    ema: see `read_torch_file`.

  Raises:
    FileNotFoundError: there is no file at `path`.
    ValueError: it is another kind of file, is damaged, or is refused.
  """
  path = pathlib.Path(path)
  if path.suffix == ".safetensors" or (path.is_file() and _starts_like_safetensors(path)):
    if ema:
      raise ValueError(
        f"{path}: a .safetensors has one set of weights and no moving average: leave the choice out"
      )
    state_dict, block = read_safetensors(path)
    return WeightFile("safetensors", state_dict, block, {})
  state_dict, info = read_torch_file(path, ema=ema)
  container = {"zip": "PyTorch zip", "legacy": "PyTorch before 1.6"}[info["form"]]
  content = "state dict"
  if info["model_class"]:
    content = f"pickled {printable(info['model_class'])}"
  held = f", entry {printable(info['key'])}" if info["key"] else ""
  return WeightFile(f"{container}, {content}{held}", state_dict, info["metadata"], info)


def _starts_like_safetensors(path: pathlib.Path) -> bool:
  with open(path, "rb") as file:
    return file.read(9)[8:] == b"{"  # behind the header's length


def read_weights(
  path: str | os.PathLike, *, model: str | None = None, ema: bool | None = None
) -> Weights:
  """Reads the weights of a network from a file; half precision becomes float32.

  Args:
    path: a .pt, .pth or .safetensors.
    model: the network; None: the one of the metadata block, or else the one that has exactly these
      entries.
    ema: of a checkpoint that holds both, take the moving average (True) or the model (False).

  Raises:
    FileNotFoundError: there is no file at `path`.
    ValueError: the file cannot be read; no network, or not this one, has exactly these entries; or
      an entry holds NaN or infinity.
  """
  file = read_weight_file(path, ema=ema)
  try:
    metadata = describe(file, pathlib.Path(path).name, model)
    _check_types(file.state_dict)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is named
      state_dict = to_float32(file.state_dict)
    check_finite(state_dict)
    return Weights(
      from_torch(create_model(metadata.model, **metadata.options), state_dict), metadata
    )
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def describe(file: WeightFile, source: str, model: str | None = None) -> Metadata:
  """The facts about a file: its own block, or what can be told from its entries.

  Raises:
    ValueError: the block is damaged, or no network has these entries.
  """
  shapes = {name: array.shape for name, array in file.state_dict.items()}
  metadata = Metadata.from_block(file.block)
  if metadata is not None and model in (None, metadata.model):
    _check_classes(metadata, shapes)
    return metadata
  name, options = recognize(shapes, model)
  counters = [a for n, a in file.state_dict.items() if n.endswith(COUNTER) and not a.shape]
  class_names = file.facts.get("class_names")
  return Metadata(
    name,
    options,
    source,
    weights="ema" if file.facts.get("weights") == "ema" else "params",
    class_names=_fitting(class_names, options["num_classes"]),
    num_batches_tracked=max((max(0, int(a)) for a in counters), default=0),
  )


def _check_classes(metadata: Metadata, shapes: Mapping[str, tuple]) -> None:
  bias, says = last_bias(shapes), metadata.options["num_classes"]
  if bias is not None and shapes[bias] != (says,):
    raise ValueError(
      f"its metadata says {says} classes, but its last layer {printable(bias)} has shape "
      f"{shapes[bias]}: get the file again"
    )


def _fitting(class_names: list[str] | None, num_classes: int) -> tuple[str, ...] | None:
  return tuple(class_names) if class_names and len(class_names) == num_classes else None


def _check_types(state_dict: Mapping[str, np.ndarray]) -> None:
  for name, array in state_dict.items():
    if array.dtype.kind not in "fV" and not name.endswith(COUNTER):
      raise ValueError(
        f"its entry {printable(name)} is of type {array.dtype}, where a floating type was "
        "expected: give weights that are not quantized"
      )


def not_finite(state_dict: Mapping[str, np.ndarray]) -> Iterator[str]:
  """Names of the entries that hold NaN or infinity."""
  for name, array in state_dict.items():
    # ml_dtypes (bfloat16, float8) have kind "V"; their wide copy is as finite as they are.
    floats = array.astype(np.float32) if array.dtype.kind == "V" else array
    if floats.dtype.kind in "fc" and not np.isfinite(floats).all():
      yield name


def check_finite(state_dict: Mapping[str, np.ndarray]) -> None:
  """Raises ValueError with the names of entries that hold NaN or infinity."""
  names = [printable(name) for name in not_finite(state_dict)]
  if names:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    raise ValueError(
      f"{len(names)} of {len(state_dict)} entries hold NaN or infinity ({', '.join(names[:10])}"
      f"{more}): give weights of a training that did not diverge"
    )


def check_destination(path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises ValueError if `write_weights` could not write there."""
  suffix = pathlib.Path(path).suffix
  if suffix not in _WRITERS:
    raise ValueError(
      f"{path}: the ending {suffix!r} says no form: use {', '.join(_WRITERS)}, or a name without "
      "an ending for a folder that the trainer starts from"
    )
  check_free(path, force=force)


def write_weights(path: str | os.PathLike, weights: Weights, *, force: bool = False) -> None:
  """Writes a .safetensors, .pt or .pth (extra `torch`), whole or not at all.

  Raises:
    ValueError: another ending, a file that is there and not `force`, or a failure to write.
  """
  check_destination(path, force=force)
  block = weights.metadata.to_block()
  _WRITERS[pathlib.Path(path).suffix](path, weights.state_dict(), block, force=force)
