"""Proof of a conversion: the same weights run in Flax and in PyTorch. Needs the extra `torch`."""

import math
from typing import NamedTuple

import jax
import numpy as np

from pst_jax.compiler import compiler_options
from pst_jax.convert.io import Weights
from pst_jax.errors import UserError
from pst_jax.install import how_to_install
from pst_jax.models import task_of
from pst_jax.models.network import STRIDE

_IMAGE_SIZE = {"imagenet": 224, "small": 32}
_DETECTOR_SIZE = 320
TOLERANCE = {"classification": 1e-4, "detection": 5e-4}
"""Largest difference that rounding in float32 explains, as a share of the outputs' deviation."""


class Agreement(NamedTuple):
  """How well the two networks agree.

  Attributes:
    top_k: coarse tokens of the fine branch, in both networks.
    difference: max |Flax - PyTorch| over the outputs: the logits, or a detector's raw maps.
    deviation: standard deviation of PyTorch's outputs.
    tolerance: difference / deviation that rounding explains.
  """

  top_k: int
  difference: float
  deviation: float
  tolerance: float

  @property
  def is_good(self) -> bool:
    return self.difference <= self.tolerance * self.deviation


def verify(weights: Weights, *, top_k: int = 8, batch: int = 2) -> list[Agreement]:
  """Runs both networks on random images, coarse and with the fine branch.

  Args:
    weights: of any network that both sides have.
    top_k: tokens of the fine branch; fewer where the images have fewer. A network without PST runs
      once.
    batch: number of images; their size is the one of the metadata, or else 224 (small stem: 32;
      detectors: 320).

  Raises:
    UserError: PyTorch is not installed, or has no such network.
  """
  twins = require_torch()
  import torch

  facts = weights.metadata
  task = task_of(facts.model)
  stem = facts.options.get("stem", "imagenet")
  size = (facts.preprocessing or {}).get("image_size")
  size = size or (_DETECTOR_SIZE if task == "detection" else _IMAGE_SIZE[stem])
  images = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
  twin = twins.create_model(facts.model, **facts.options).eval()
  state_dict = {name: torch.tensor(array) for name, array in weights.state_dict().items()}
  twin.load_state_dict(state_dict, strict=True)
  results = []
  has_pst = any(name.endswith("gate_conv1d.weight") for name in state_dict)
  most = min(top_k, math.ceil(size / STRIDE[stem]) ** 2)
  for k in (0, most) if has_pst else (0,):
    with torch.inference_mode():
      outputs = twin.set_top_k(k)(torch.from_numpy(images))
    expected = _joined(jax.tree.map(lambda x: x.movedim(1, -1).numpy(), outputs))
    apply = jax.jit(weights.network(top_k=k).apply, compiler_options=compiler_options())
    actual = _joined(apply(weights.variables, images.transpose(0, 2, 3, 1)))
    difference, deviation = np.abs(actual - expected).max(), expected.std()
    results.append(Agreement(k, float(difference), float(deviation), TOLERANCE[task]))
  return results


def _joined(outputs) -> np.ndarray:
  return np.concatenate([np.ravel(each) for each in jax.tree.leaves(outputs)])


def require_torch():
  """The package `pst_jax.torch`.

  Raises:
    UserError: PyTorch is not installed.
  """
  try:
    import pst_jax.torch
  except ImportError:
    raise UserError(
      "verifying runs the network in PyTorch as well, which is not installed: "
      f"{how_to_install('torch')}, or leave --verify out"
    ) from None
  return pst_jax.torch
