"""Proof of a conversion: the same weights run in Flax and in PyTorch. Needs the extra `torch`."""

import math
from typing import NamedTuple

import jax
import numpy as np

from pst_jax.compiler import compiler_options
from pst_jax.convert.weights import Weights
from pst_jax.models.network import STRIDE

_IMAGE_SIZE = {"imagenet": 224, "small": 32}
TOLERANCE = 1e-4
"""Largest difference that rounding in float32 explains, as a share of the logits' deviation."""


class Agreement(NamedTuple):
  """Attributes:
  top_k: coarse tokens of the fine branch, in both networks.
  difference: max |Flax - PyTorch| over the logits.
  deviation: standard deviation of PyTorch's logits.
  """

  top_k: int
  difference: float
  deviation: float

  @property
  def is_good(self) -> bool:
    return self.difference <= TOLERANCE * self.deviation


def verify(weights: Weights, *, top_k: int = 8, batch: int = 2) -> list[Agreement]:
  """Runs both networks on random images, coarse and with the fine branch.

  Args:
    weights: of any network that both sides have.
    top_k: tokens of the fine branch; fewer where the images have fewer. A network without PST runs
      once.
    batch: number of images; their size is the one of the metadata, or else 224 (small stem: 32).

  Raises:
    ValueError: PyTorch is not installed, or has no such network.
  """
  twins = require_torch()
  import torch

  facts = weights.metadata
  stem = facts.options["stem"]
  size = (facts.preprocessing or {}).get("image_size") or _IMAGE_SIZE[stem]
  images = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
  twin = twins.create_model(facts.model, **facts.options).eval()
  state_dict = {name: torch.tensor(array) for name, array in weights.state_dict().items()}
  twin.load_state_dict(state_dict, strict=True)
  results = []
  for k in _top_ks(twin, min(top_k, math.ceil(size / STRIDE[stem]) ** 2)):
    with torch.inference_mode():
      expected = twin.set_top_k(k)(torch.from_numpy(images)).numpy()
    apply = jax.jit(weights.network(top_k=k).apply, compiler_options=compiler_options())
    actual = np.asarray(apply(weights.variables, images.transpose(0, 2, 3, 1)))
    results.append(Agreement(k, float(np.abs(actual - expected).max()), float(expected.std())))
  return results


def require_torch():
  """The package `pst_jax.torch`.

  Raises:
    ValueError: PyTorch is not installed.
  """
  try:
    import pst_jax.torch
  except ImportError:
    raise ValueError(
      "verifying runs the network in PyTorch as well, which is not installed: "
      "pip install 'pst_jax[torch]', or leave --verify out"
    ) from None
  return pst_jax.torch


def _top_ks(twin, largest: int) -> tuple[int, ...]:
  has_pst = any(name.endswith("gate_conv1d.weight") for name in twin.state_dict())
  return (0, largest) if has_pst else (0,)
