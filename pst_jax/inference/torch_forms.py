"""Networks as ONNX and TorchScript: the same function of plain images as StableHLO's file holds.

The PyTorch twin of the network is exported, with normalisation inside. What StableHLO has beside it
is inside too, as texts: "class_names", a JSON list, and "facts", a JSON object.
"""

import json
import os
from typing import Literal

import jax
import numpy as np

from pst_jax.convert.io import Weights
from pst_jax.errors import UserError
from pst_jax.files import check_free
from pst_jax.inference.class_names import class_names
from pst_jax.inference.detector import Detector
from pst_jax.inference.predictor import Predictor
from pst_jax.inference.stablehlo import check_ending, facts_about
from pst_jax.install import how_to_install

Form = Literal["onnx", "torchscript"]
_PACKAGES = {"onnx": ("torch", "onnx", "onnxscript"), "torchscript": ("torch",)}


def check_export_destination(form: Form, path: str | os.PathLike, *, force: bool = False) -> None:
  """Raises UserError if `write_export` could not write there, or its packages are not installed."""
  for package in _PACKAGES[form]:
    try:
      __import__(package)
    except ImportError as error:
      raise UserError(
        f"exporting {form} needs {package} ({error}): {how_to_install(*_PACKAGES[form])}"
      ) from None
  check_ending(path, form)
  check_free(path, force=force)


def write_export(
  form: Form, path: str | os.PathLike, predictor: Predictor, weights: Weights, *, force: bool
) -> int:
  """Writes uint8 [batch, size, size, 3] -> the predictor's answers, for any batch size.

  Of a classifier "logits" [batch, num_classes], of a detector "boxes", "scores", "classes" and
  "valid" as `stablehlo.export_predictor` says.

  Args:
    form: of the file.
    path: the file.
    predictor: of `weights`: its top_k, size of images, normalisation and thresholds are taken.
    weights: as they were read.
    force: replace a file that is there.

  Returns:
    The bytes of the file.

  Raises:
    UserError: the twins have no such network or rule of selection; images of a size that it does
      not take; the file is there and not `force`, or cannot be written.
  """
  check_export_destination(form, path, force=force)
  import torch

  import pst_jax.torch

  network, facts = predictor.network, weights.metadata
  if network.top_k and network.selection != "top_k":
    raise UserError(
      f"{form} has the rule top_k alone, but these weights open tokens by {network.selection}: "
      "give --top-k 0, or export them as stablehlo"
    )
  prepared = predictor.preprocessing
  side = prepared["image_size"]
  # The twins take some sizes that the network does not.
  images = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
  jax.eval_shape(predictor.run, predictor.variables, images)
  twin = pst_jax.torch.create_model(facts.model, **facts.options).eval().set_top_k(network.top_k)
  state_dict = {name: torch.tensor(array) for name, array in weights.state_dict().items()}
  twin.load_state_dict(state_dict)
  names = class_names(facts)
  texts = {"facts": json.dumps(facts_about(predictor, facts))} | (
    {} if names is None else {"class_names": json.dumps(names)}
  )
  thresholds = {}
  if isinstance(predictor, Detector):
    thresholds = {n: getattr(predictor, n) for n in ("score_threshold", "iou_threshold")}
  export = {"onnx": pst_jax.torch.export_onnx, "torchscript": pst_jax.torch.export_torchscript}
  return export[form](
    twin,
    path,
    side,
    normalization=(prepared["mean"], prepared["std"]),
    facts=texts,
    force=force,
    **thresholds,
  )
