"""What is fuzzed: each target gives any bytes to a reader, as the file that it reads.

A reader may raise `UserError` or `FileNotFoundError`, and `check` also bounds its time and memory.
"""

import contextlib
import functools
import io
import json
import pathlib
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable

from pst_jax import hub
from pst_jax.checkpoints import layout
from pst_jax.convert.formats.safetensors_file import read_safetensors
from pst_jax.convert.formats.torch_file import read_torch_file
from pst_jax.convert.hub_config import completed
from pst_jax.convert.metadata import Metadata
from pst_jax.errors import ImageError, UserError
from pst_jax.image_headers import image_size
from pst_jax.preprocessing import decode
from train.data import feature_files
from train.data.prepare.tars import list_members, read_member
from train.tasks.classification.data import read_class_names

SECONDS, SECONDS_PER_BYTE = 2.0, 1e-4
"""Of the processor, with the slowness of an instrumented interpreter in it."""

BYTES, BYTES_PER_BYTE = 2**24, 1000
"""Of memory at once."""

MAX_PIXELS = 10_000
STORAGE = bytes(range(24))


def torch_file(data: bytes) -> None:
  """A .pt as it is: most of the time is spent on the archive, or on the format before 1.6."""
  read_torch_file(_file(data))


def torch_pickle(data: bytes) -> None:
  """The pickle inside a .pt whose checksums are right."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("a/data.pkl", data)
    archive.writestr("a/data/0", STORAGE)
  read_torch_file(_file(buffer.getvalue()))


def safetensors(data: bytes) -> None:
  read_safetensors(_file(data))


def metadata_block(data: bytes) -> None:
  block = _json(data)
  if isinstance(block, dict):
    Metadata.from_block(block)


def hub_config(data: bytes) -> None:
  """config.json of a repository of the hub, beside weights that say little and much."""
  for metadata in (Metadata("resnet18", {"num_classes": 2}, "x"), None):
    config = hub.read_config(hub.Address("a/b"), str(_file(data, "config.json")))
    metadata = metadata or Metadata.from_block(config)
    if metadata is not None:
      completed(metadata, config, "hf://a/b", None)


def checkpoint_record(data: bytes) -> None:
  """The record as it is, and, where it is a table, with a checksum that is right."""
  folder = _folder() / "run"
  file = folder / "1" / "record" / "metadata"
  file.parent.mkdir(parents=True, exist_ok=True)
  record, sealed = _json(data), b""
  with contextlib.suppress(RecursionError):  # a record that cannot be sealed was never written
    sealed = json.dumps(layout.sealed(record)).encode() if isinstance(record, dict) else b""
  for content in (data, sealed):
    file.write_bytes(content)
    layout.steps_to_try(folder, "best")
    with contextlib.suppress(layout.CorruptError):
      layout.read_record(folder, 1)


def tar(data: bytes) -> None:
  path = _file(data)
  for member in list_members(path):
    read_member(path, member)


def image(data: bytes) -> None:
  """No image is decoded that is larger than its header, as it is read here, says."""
  size = image_size(data)
  try:
    pixels = decode(data, MAX_PIXELS)
  except ImageError:
    return
  height, width = pixels.shape[:2]
  assert height * width <= min(MAX_PIXELS, size.pixels), (size, pixels.shape)


def features(data: bytes) -> None:
  folder = _file(data, "features.json").parent
  feature_files.check_feature_classes("fuzzed", folder)


def class_names(data: bytes) -> None:
  read_class_names(_file(data, "label.labels.txt").parent, 2)


TARGETS: dict[str, Callable[[bytes], None]] = {
  each.__name__: each
  for each in (
    *(torch_file, torch_pickle, safetensors, metadata_block, hub_config, checkpoint_record),
    *(tar, image, features, class_names),
  )
}


def check(target: Callable[[bytes], None], data: bytes, *, trace: bool = True) -> None:
  """Runs a target on an input.

  Args:
    target: one of `TARGETS`.
    data: the input.
    trace: also look at its memory, which takes several times longer.

  Raises:
    AssertionError: it took too much time or memory.
    Exception: whatever the reader raised that it must not.
  """
  if trace:
    tracemalloc.start()
  started = time.process_time()
  try:
    target(data)
  except (UserError, FileNotFoundError) as error:
    assert "\n" not in str(error), f"more than one sentence: {error}"
  finally:
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1] if trace else 0
    tracemalloc.stop()
  assert seconds <= SECONDS + SECONDS_PER_BYTE * len(data), f"{seconds:.1f} s, {len(data)} bytes"
  assert peak <= BYTES + BYTES_PER_BYTE * len(data), f"{peak} bytes for {len(data)}"


def _json(data: bytes) -> object:
  try:
    return json.loads(data)
  except (ValueError, RecursionError):
    return None


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
  memory = pathlib.Path("/dev/shm")
  return tempfile.TemporaryDirectory(prefix="fuzz", dir=memory if memory.is_dir() else None)


def _folder() -> pathlib.Path:
  return pathlib.Path(_temporary().name)


def _file(data: bytes, name: str = "input") -> pathlib.Path:
  path = _folder() / name
  path.write_bytes(data)
  return path
