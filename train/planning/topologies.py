"""Slices of TPU chips by name, and the compiler's devices for them on a machine without a TPU."""

import dataclasses
import difflib
import math
import os

from train.config import ConfigError
from train.planning.chips import CHIPS, Chip

# Without these libtpu asks a metadata server that only machines of Google Cloud have, and refuses
# to be loaded by two processes at once.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that are wired as a grid.

  Attributes:
    chip: their kind.
    sides: of the grid, in chips.
  """

  chip: Chip
  sides: tuple[int, ...]

  @property
  def name(self) -> str:
    return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

  @property
  def num_chips(self) -> int:
    return math.prod(self.sides)

  @property
  def num_devices(self) -> int:
    return self.num_chips * self.chip.devices

  def is_ring(self, side: int) -> bool:
    """Whether a side of that length closes to a ring."""
    if self.chip.wraps == "side16":
      return side == 16
    return all(each % 4 == 0 for each in self.sides)


def find_slice(name: str) -> Slice:
  """The slice of a name such as v5e:16x16.

  Raises:
    ConfigError: there is none; names those that there are.
  """
  kind, _, shape = name.partition(":")
  chip = CHIPS.get(kind)
  if chip is None:
    close = difflib.get_close_matches(kind, CHIPS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    examples = ", ".join(f"{each}:{CHIPS[each].shapes[-1]}" for each in CHIPS)
    raise ConfigError(
      f"topology {name!r} is unknown{hint}: give a chip, a colon and the shape of the slice; chips "
      f"are {', '.join(CHIPS)}, their largest slices {examples}"
    )
  if shape not in chip.shapes:
    names = ", ".join(f"{kind}:{each}" for each in chip.shapes)
    raise ConfigError(f"topology {name!r} is unknown: slices of {kind} are {names}")
  return Slice(chip, tuple(map(int, shape.split("x"))))


def compiler_devices(where: Slice) -> list:
  """JAX's devices of the slice, for which programs can be compiled, but not run.

  Raises:
    ConfigError: libtpu is not installed, or does not know the slice.
  """
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  try:
    import libtpu  # noqa: F401 - it tells jax where its library is
  except ImportError:
    raise ConfigError(
      "the TPU compiler (libtpu) is not installed: pip install 'pst_jax[tpu-plan]'"
    ) from None
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(where.name, "tpu", **where.chip.options).devices
  except Exception as error:  # the plugin's own kinds
    raise ConfigError(
      f"this libtpu cannot compile for {where.name} ({str(error).splitlines()[0]}): choose another "
      "topology or libtpu"
    ) from error
