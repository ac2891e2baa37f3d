"""Networks as StableHLO: one file that runs with JAX alone."""

import json
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from pst_jax.convert.metadata import Metadata
from pst_jax.errors import UserError
from pst_jax.files import atomic_writes, check_free
from pst_jax.inference.predictor import Predictor
from pst_jax.install import how_to_install

_ENDINGS = (
  *(".engine", ".h5", ".keras", ".mlmodel", ".mlpackage", ".onnx", ".pb", ".plan", ".pt", ".pte"),
  *(".pth", ".safetensors", ".stablehlo", ".tflite", ".trt", ".ts"),
)
"""Endings that promise a file of one kind."""
FORMS = {
  "stablehlo": ("StableHLO", (".stablehlo",)),
  "onnx": ("ONNX", (".onnx",)),
  "torchscript": ("TorchScript", (".ts", ".pt", ".pth")),
}
"""What a network can be exported as: its name in words, and the endings for it."""
PLATFORMS = ("cpu", "tpu", "cuda")


def export_predictor(
  predictor: Predictor, *, platforms: Sequence[str] = PLATFORMS
) -> jax.export.Exported:
  """The function uint8 [batch, size, size, 3] -> the predictor's answers, for any batch size.

  A classifier's are logits, float32 [batch, num_classes]. A detector's are {"boxes": float32
  [batch, 300, 4], "scores": float32 [batch, 300], "classes": int32 [batch, 300], "valid": bool
  [batch, 300]}, see `pst_jax.detection.Found`. Normalisation and weights are inside, BatchNorm is
  folded into the convolutions, non-maximum suppression is inside; cropping or letterboxing stay
  with the caller.

  Args:
    predictor: the network and its variables; its preprocessing has the side of the images.
    platforms: where it will run.

  Raises:
    UserError: images of a size that the network does not take, or too small for its top_k.
  """
  size = predictor.preprocessing["image_size"]
  (batch,) = jax.export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)

  # Arrays that a function closes over become constants of the module.
  def answers(images):
    told = predictor.run(predictor.variables, images)
    # Plain types, so that the file is read without this library.
    return told._asdict() if isinstance(told, tuple) else told

  return jax.export.export(jax.jit(answers), platforms=platforms)(images)


def facts_path(path: str | os.PathLike) -> str:
  """Where the facts about an exported file lie: beside it."""
  return f"{os.fspath(path)}.json"


def check_ending(path: str | os.PathLike, form: str) -> None:
  """Raises UserError for a name whose ending promises another form than one of `FORMS`."""
  suffix, (name, own) = pathlib.Path(path).suffix.lower(), FORMS[form]
  if suffix in _ENDINGS and suffix not in own:
    other = next((each for each, (_, endings) in FORMS.items() if suffix in endings), None)
    raise UserError(
      f"{path}: the file will be {name}, which {suffix} is not the ending of: give a name such as "
      f"{pathlib.Path(path).stem}{own[0]}" + (f", or --format {other}" if other else "")
    )


def facts_about(predictor: Predictor, metadata: Metadata) -> dict:
  """What whoever runs an exported file needs to know, as plain values for JSON."""
  # What decides the answers: the preprocessing, and the fields that a task adds.
  settings = {
    name: x for name, x in vars(predictor).items() if name not in ("network", "variables")
  }
  return {**metadata.to_block(), "top_k": predictor.network.top_k, **settings}


def check_export_destination(path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises UserError if `write_export` could not write there, or flatbuffers is not installed."""
  try:
    import flatbuffers  # noqa: F401
  except ImportError:
    raise UserError(
      f"exporting needs flatbuffers, which is not installed: {how_to_install('flatbuffers')}"
    ) from None
  check_ending(path, "stablehlo")
  for each in (path, facts_path(path)):
    check_free(each, force=force)


def write_export(
  path: str | os.PathLike,
  exported: jax.export.Exported,
  predictor: Predictor,
  metadata: Metadata,
  *,
  force: bool = False,
) -> int:
  """Writes `path`, for `jax.export.deserialize`, and `path`.json with the facts about it.

  `exported` is what `export_predictor` made of `predictor`. Returns the bytes of `path`, which is
  as large as the weights.

  Raises:
    UserError: a file is there and not `force`, has the ending of another form, or cannot be
      written; both stay as they were.
  """
  check_export_destination(path, force=force)
  network = exported.serialize()
  facts = {
    "input": str(exported.in_avals[0]),
    "output": jax.tree.map(str, jax.tree.unflatten(exported.out_tree, exported.out_avals)),
    "platforms": list(exported.platforms),
    **facts_about(predictor, metadata),
  }
  # Together: class names of an old network beside a new one would be worse than neither.
  with atomic_writes(facts_path(path), path, force=force) as (facts_file, file):
    facts_file.write(json.dumps(facts, indent=2).encode())
    file.write(network)
  return len(network)
