"""Weights of one network, from and to anywhere: .pt, .pth, .safetensors, run folders, folders."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pst_jax import hub
from pst_jax.buckets import is_url, local_copy
from pst_jax.checkpoints.layout import Which
from pst_jax.convert import hub_config
from pst_jax.convert.formats.pickle_globals import printable
from pst_jax.convert.formats.safetensors_file import read_safetensors, write_safetensors
from pst_jax.convert.formats.torch_file import read_torch_file, to_float32, write_torch_file
from pst_jax.convert.metadata import Metadata, Record, check_task
from pst_jax.convert.recognition import recognize
from pst_jax.convert.state_dict import COUNTER, from_torch, last_bias, to_torch
from pst_jax.errors import UserError
from pst_jax.files import check_free, place
from pst_jax.folders import recover_folder
from pst_jax.install import how_to_install
from pst_jax.models import Network, create_model, task_of
from pst_jax.wording import listed

_WRITERS = {".safetensors": write_safetensors, ".pt": write_torch_file, ".pth": write_torch_file}


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
    record: what a run knows of them beside that; empty where they were read of none.
  """

  variables: dict
  metadata: Metadata
  record: Record = field(default_factory=Record)

  def network(self, **options) -> Network:
    """The network that the variables belong to, e.g. `weights.network(top_k=8)`."""
    return create_model(self.metadata.model, **self.metadata.options, **options)

  def state_dict(self) -> dict[str, np.ndarray]:
    """PyTorch's {entry name: array}, in the order of the manifest."""
    counter = self.metadata.num_batches_tracked
    return to_torch(self.network(), self.variables, num_batches_tracked=counter)


def read_weight_file(path: str | os.PathLike, *, ema: bool | None = None) -> WeightFile:
  """Reads any file of weights; the form is told from the content, not from the name.

  Arguments and errors as `read_torch_file`.
  """
  path = pathlib.Path(path)
  is_safetensors = path.suffix == ".safetensors"
  if not is_safetensors and path.is_file():
    with open(path, "rb") as file:
      is_safetensors = file.read(9)[8:] == b"{"  # behind the header's length
  if is_safetensors:
    if ema:
      raise UserError(
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


def read(
  source: str | os.PathLike,
  model: str | None = None,
  step: Which | None = None,
  ema: bool | None = None,
) -> Weights:
  """Reads the weights of a network, in float32, from a file or a folder.

  Args:
    source: a run folder, a folder that `write` wrote, a .pt, .pth or .safetensors of anybody (also
      gs:// and s3://), or a repository of the hub, hf://owner/name or hf://owner/name@revision.
    model: the network; None: the one that the metadata name, or else the one that has exactly these
      entries. A folder says itself what network it holds.
    step: of a run folder: a step, "latest" or "best"; None: the latest.
    ema: take the moving average (True), the parameters (False), or the average if there is one.

  Raises:
    MissingFileError: there is nothing at `source`.
    UserError: it holds no weights, or corrupt ones, or not those asked for; no network, or not this
      one, has exactly these entries; or an entry holds NaN or infinity.
  """
  if hub.is_address(source):
    return _read_repository(str(source), model, step, ema)
  with local_copy(place(source, "the source of weights"), folders=("gs",)) as path:
    if weights := _read_folder(path, step, ema):
      found = weights.metadata.model
      if model not in (None, found):
        raise UserError(f"{source}: it holds weights of {found}, not of {model}: leave --model out")
      with _about(source):
        check_finite(weights.state_dict())
      return weights
    if step is not None:
      raise UserError(f"{source}: a file holds one step: leave --step out, or give a run folder")
    return _read_file(path, model, ema)


def read_as_is(source: str | os.PathLike) -> WeightFile:
  """Reads what a file or folder holds, without judging it; errors as `read`."""
  if hub.is_address(source):
    return _repository_as_is(str(source))
  with local_copy(place(source, "the source of weights"), folders=("gs",)) as path:
    weights = _read_folder(path)
    if weights is None:
      return read_weight_file(path)
  block = weights.metadata.to_block()
  return WeightFile("folder of Orbax checkpoints", weights.state_dict(), block, {})


def _read_repository(
  source: str, model: str | None, step: Which | None, ema: bool | None
) -> Weights:
  if step is not None:
    raise UserError(f"{source}: a repository holds one step: leave --step out, or give a @revision")
  fetched = hub.fetch(source)
  with _about(source):
    weights = _read_file(fetched.weights, model, ema)
    metadata = hub_config.completed(weights.metadata, fetched.config, source, model)
  return Weights(weights.variables, metadata)


def _repository_as_is(source: str) -> WeightFile:
  fetched = hub.fetch(source)
  file = read_weight_file(fetched.weights)
  try:
    metadata = describe(file, fetched.weights.name)
  except UserError:
    return file  # of no network that is known
  with _about(source):
    metadata = hub_config.completed(metadata, fetched.config, source, None)
  return file._replace(block=(file.block or {}) | metadata.to_block())


def _read_folder(
  path: pathlib.Path, step: Which | None = None, ema: bool | None = None
) -> Weights | None:
  """The weights in a folder; None: it is none."""
  if not is_url(path):
    recover_folder(path)
  if not path.is_dir():
    return None
  return Weights(*_orbax(path).read_folder(path, "latest" if step is None else step, ema))


def _read_file(path: pathlib.Path, model: str | None, ema: bool | None) -> Weights:
  file = read_weight_file(path, ema=ema)
  with _about(path):
    metadata = describe(file, path.name, model)
    for name, array in file.state_dict.items():
      if array.dtype.kind not in "fV" and not name.endswith(COUNTER):
        raise UserError(
          f"its entry {printable(name)} is of type {array.dtype}, where a floating type was "
          "expected: give weights that are not quantized"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is named
      state_dict = to_float32(file.state_dict)
    check_finite(state_dict)
    network = create_model(metadata.model, **metadata.options)
    return Weights(from_torch(network, state_dict), metadata)


@contextlib.contextmanager
def _about(source: str | os.PathLike) -> Iterator[None]:
  """Lets an error about the content of a file begin with the file's name."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{source}: {error}") from None


def _orbax(path: str | os.PathLike):
  """The module that reads and writes folders; late, because it needs Orbax and files do not."""
  try:
    from pst_jax.convert.formats import orbax_folder
  except ImportError as error:
    raise UserError(
      f"{path}: folders of checkpoints need Orbax ({error}): {how_to_install('orbax-checkpoint')}"
    ) from None
  return orbax_folder


def describe(file: WeightFile, source: str, model: str | None = None) -> Metadata:
  """The facts about a file: its own block, or what can be told from its entries.

  Raises:
    UserError: the block is damaged, or no network has these entries.
  """
  shapes = {name: array.shape for name, array in file.state_dict.items()}
  metadata = Metadata.from_block(file.block)
  if metadata is not None and model in (None, metadata.model):
    bias, says = last_bias(shapes), metadata.options["num_classes"]
    if bias is not None and shapes[bias] != (says,):
      raise UserError(
        f"its metadata says {says} classes, but its last layer {printable(bias)} has shape "
        f"{shapes[bias]}: get the file again"
      )
    check_task(metadata)
    return metadata
  name, options = recognize(shapes, model)
  counters = [a for n, a in file.state_dict.items() if n.endswith(COUNTER) and not a.shape]
  counters = [int(a) for a in counters if 0 <= a.astype(np.float64) < 2**63]
  names = file.facts.get("class_names") or ()
  return Metadata(
    name,
    options,
    source,
    weights="ema" if file.facts.get("weights") == "ema" else "params",
    class_names=tuple(names) if names and len(names) == options["num_classes"] else None,
    num_batches_tracked=max(counters, default=0),
    task=task_of(name),
  )


def not_finite(state_dict: Mapping[str, np.ndarray]) -> Iterator[str]:
  """Names of the entries that hold NaN or infinity."""
  for name, array in state_dict.items():
    # ml_dtypes (bfloat16, float8) have kind "V"; their wide copy is as finite as they are.
    floats = array.astype(np.float32) if array.dtype.kind == "V" else array
    if floats.dtype.kind in "fc" and not np.isfinite(floats).all():
      yield name


def check_finite(state_dict: Mapping[str, np.ndarray]) -> None:
  """Raises UserError with the names of entries that hold NaN or infinity."""
  names = [printable(name) for name in not_finite(state_dict)]
  if names:
    raise UserError(
      f"{len(names)} of {len(state_dict)} entries hold NaN or infinity ({listed(names, 10)}): give"
      " weights of a training that did not diverge"
    )


def check_destination(dest: str | os.PathLike, *, force: bool = False) -> None:
  """Raises UserError if `write` could not write there."""
  if hub.is_address(dest):
    raise UserError(f"{dest}: `pst_jax push` is the command that writes to the hub")
  suffix = place(dest, "the destination").suffix
  if not suffix:
    _orbax(dest).check_folder(dest, force=force)
    return
  if suffix not in _WRITERS:
    raise UserError(
      f"{dest}: the ending {suffix!r} says no form: use {', '.join(_WRITERS)}, or a name without "
      "an ending for a folder that the trainer starts from"
    )
  check_free(place(dest, "the destination"), force=force)


def write(dest: str | os.PathLike, weights: Weights, *, force: bool = False) -> None:
  """Writes a .safetensors, .pt or .pth, or without an ending a folder; whole or not at all.

  Args:
    dest: a .pt or .pth needs PyTorch; a folder needs Orbax, and is no part of an s3:// bucket.
    weights: what to write.
    force: replace a file, or a folder of weights, that is there.

  Raises:
    UserError: another ending, a place that is taken and not `force`, or a failure to write.
  """
  check_destination(dest, force=force)
  check_task(weights.metadata)
  block = weights.metadata.to_block()
  Metadata.from_block(block)  # what could not be read again is not written
  file = place(dest, "the destination")
  if file.suffix:
    _WRITERS[file.suffix](file, weights.state_dict(), block, force=force)
  else:
    _orbax(dest).write_folder(dest, weights.variables, weights.metadata, force=force)
