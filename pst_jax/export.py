"""Networks as StableHLO: one file that runs with JAX alone."""

import json
import os
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from pst_jax.convert.atomic import atomic_write, check_free
from pst_jax.convert.metadata import Metadata
from pst_jax.inference import Classifier

PLATFORMS = ("cpu", "tpu", "cuda")


def export_classifier(
  classifier: Classifier,
  *,
  image_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
) -> jax.export.Exported:
  """The function uint8 [batch, size, size, 3] -> float32 logits [batch, num_classes].

  The batch size is free. Normalisation and weights are inside, BatchNorm is folded into the
  convolutions; resizing and cropping stay with the caller.

  Args:
    classifier: the network and its variables.
    image_size: side of the images; None: the one of the preprocessing.
    platforms: where it will run.

  Raises:
    ValueError: images too small for the network, or too small for its top_k.
  """
  size = classifier.preprocessing["image_size"] if image_size is None else image_size
  if size < 1:
    raise ValueError(f"image_size is {size}, but it must be a whole number of pixels from 1")
  (batch,) = jax.export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)

  # Arrays that a function closes over become constants of the module.
  def logits(images):
    return classifier.logits(classifier.variables, images)

  return jax.export.export(jax.jit(logits), platforms=platforms)(images)


def facts_path(path: str | os.PathLike) -> str:
  """Where the facts about an exported file lie: beside it."""
  return f"{os.fspath(path)}.json"


def check_export_destination(path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises ValueError if `write_export` could not write there, or flatbuffers is not installed."""
  try:
    import flatbuffers  # noqa: F401
  except ImportError:
    raise ValueError(
      "exporting needs flatbuffers, which is not installed: pip install 'pst_jax[export]'"
    ) from None
  for each in (path, facts_path(path)):
    check_free(each, force=force)


def write_export(
  path: str | os.PathLike,
  exported: jax.export.Exported,
  classifier: Classifier,
  metadata: Metadata,
  *,
  force: bool = False,
) -> int:
  """Writes `path`, for `jax.export.deserialize`, and `path`.json with the facts about it.

  Args:
    path: the file of the network; as large as its weights.
    exported: what `export_classifier` made of `classifier`.
    classifier: the network.
    metadata: of its weights.
    force: replace files that are there.

  Returns:
    The size of the file in bytes.

  Raises:
    ValueError: a file is there and not `force`, or cannot be written; both stay as they were.
  """
  check_export_destination(path, force=force)
  network = exported.serialize()
  facts = {
    "input": str(exported.in_avals[0]),
    "output": str(exported.out_avals[0]),
    "platforms": list(exported.platforms),
    **metadata.to_block(),
    "top_k": classifier.network.top_k,
    "preprocessing": {**classifier.preprocessing, "image_size": exported.in_avals[0].shape[1]},
  }
  with (
    atomic_write(facts_path(path), force=force) as facts_file,
    atomic_write(path, force=force) as file,
  ):
    facts_file.write(json.dumps(facts, indent=2).encode())
    file.write(network)
  return len(network)
