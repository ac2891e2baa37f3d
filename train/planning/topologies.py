"""Slices of TPU chips by name, and the compiler's devices for them on a machine without a TPU."""

import dataclasses
import difflib
import math
import os

from pst_jax.errors import UserError
from pst_jax.install import how_to_install
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
  """Chips of one kind, wired as a grid."""

  chip: Chip
  sides: tuple[int, ...]  # of the grid, in chips

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
    """Whether a side closes to a ring: in a flat slice if it is 16 long, else if 4 divides all."""
    return side == 16 if len(self.sides) == 2 else all(each % 4 == 0 for each in self.sides)


def find_slice(name: str) -> Slice:
  """The slice of a name such as v5e:16x16.

  Raises:
    UserError: there is none; names those that there are.
  """
  kind, _, shape = name.partition(":")
  chip = CHIPS.get(kind)
  if chip is None:
    close = difflib.get_close_matches(kind, CHIPS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    examples = ", ".join(f"{each}:{CHIPS[each].shapes[-1]}" for each in CHIPS)
    raise UserError(
      f"topology {name!r} is unknown{hint}: give a chip, a colon and the shape of the slice; chips "
      f"are {', '.join(CHIPS)}, their largest slices {examples}"
    )
  if shape not in chip.shapes:
    names = ", ".join(f"{kind}:{each}" for each in chip.shapes)
    raise UserError(f"topology {name!r} is unknown: slices of {kind} are {names}")
  return Slice(chip, tuple(map(int, shape.split("x"))))


def compiler_devices(topology: Slice) -> list:
  """JAX's devices of the slice, for which programs can be compiled, but not run.

  Raises:
    UserError: libtpu is not installed, or does not know the slice.
  """
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  try:
    import libtpu  # noqa: F401 - it tells jax where its library is
  except ImportError:
    raise UserError(f"the TPU compiler is not installed: {how_to_install('libtpu')}") from None
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(topology.name, "tpu", **topology.chip.options).devices
  except Exception as error:  # the plugin's own kinds
    raise UserError(
      f"this libtpu cannot compile for {topology.name} ({str(error).splitlines()[0]}): "
      "choose another topology or libtpu"
    ) from error
