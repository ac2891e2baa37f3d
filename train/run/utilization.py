"""How much of its devices a run uses: the memory at its peak, and the share of their FLOPs."""

import re

import jax

from pst_jax.models.summary import summarize
from train.planning.chips import CHIPS
from train.planning.gpus import GPUS
from train.setup import Setup

_CHIPS = CHIPS | GPUS
# What JAX calls the chips whose names are others there.
_NAMES = {"tpu v5 lite": "v5e", "tpu v5": "v5p", "tpu v6 lite": "v6e"}
# Boards of the same chip with another clock, and parts of one.
_OTHER_BOARDS = {"pcie", "nvl", "mig"}
# Forward, and as much again for the gradients of the activations and of the parameters: what the
# network asks for, whatever is computed twice (arXiv 2204.02311, appendix B).
_PASSES = 3


def peak_memory() -> dict[str, int]:
  """{"device_memory_peak_bytes": ...} of the fullest device of this process since it began.

  Empty where the platform does not tell, as the CPU.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
  return {"device_memory_peak_bytes": max(peaks)} if peaks else {}


def images_per_second_at_peak(setup: Setup) -> float | None:
  """How fast training would be if all devices did the network's FLOPs at their bfloat16 peak.

  None: the devices are not in `train.planning`.
  """
  peak = peak_flops(setup.mesh.devices.flat[0].device_kind)
  if peak is None:
    return None
  flops = summarize(setup.model, setup.config.data.image_size, depth=0).flops
  return setup.mesh.size * peak / (_PASSES * flops)


def peak_flops(device_kind: str) -> float | None:
  """bfloat16 FLOP/s of a device by what JAX calls its kind; None: not known."""
  kind = device_kind.lower()
  words = set(re.findall(r"\w+", kind))
  names = [_NAMES[kind]] if kind in _NAMES else sorted(words & _CHIPS.keys())
  known = [_CHIPS[name].flops_per_device for name in names]
  return known[0] if known and not words & _OTHER_BOARDS else None
