"""The file that says what a TFDS data set holds, read before TFDS builds anything from it."""

import json
import pathlib

from pst_jax.errors import UserError

ALLOWED = frozenset(
  f"tensorflow_datasets.core.features.{name}"
  for name in (
    "bounding_boxes.BBoxFeature",
    "class_label_feature.ClassLabel",
    "feature.Tensor",
    "features_dict.FeaturesDict",
    "image_feature.Image",
    "scalar.Scalar",
    "sequence_feature.Sequence",
    "tensor_feature.Tensor",
    "text_feature.Text",
  )
)
"""TFDS imports the module of any other class that the file names, also from the current folder."""

_ALLOWED_NAMES = sorted({name.rpartition(".")[2] for name in ALLOWED})

_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


def check_feature_classes(dataset: str, folder: pathlib.Path) -> None:
  """Raises UserError if `features.json` names a class that is not one of `ALLOWED`, or is damaged.

  Args:
    dataset: its name, for the error.
    folder: of a version of it, such as `digits/1.0.0`.
  """
  try:
    waiting = [json.loads((folder / "features.json").read_bytes())]
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f"dataset {dataset} in {folder} cannot be opened (features.json: {type(error).__name__}):"
      " restore its JSON files or prepare it again"
    ) from error
  while waiting:
    value = waiting.pop()
    if isinstance(value, list):
      waiting += value
    if not isinstance(value, dict):
      continue
    waiting += value.values()
    for name in (value.get(key) for key in _CLASS_KEYS):
      if isinstance(name, str) and name not in ALLOWED:
        raise UserError(
          f"dataset {dataset} in {folder} asks for the feature {ascii(name)[:120]}, which is none"
          f" of those that are read ({', '.join(_ALLOWED_NAMES)}):"
          " prepare the data set without it"
        )
