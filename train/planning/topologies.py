"""Slices of chips by name, and the compiler's devices for them on a machine without a TPU."""

import dataclasses
import difflib
import os

from pst_jax.errors import UserError
from pst_jax.install import how_to_install
from train.planning.chips import CHIPS, HOP_LATENCY, Topology, Wires
from train.planning.gpus import GPUS, Gpu, Machines

# Without these libtpu asks a metadata server that only machines of Google Cloud have, and refuses
# to be loaded by two processes at once.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Slice(Topology):
  """TPU chips of one kind, wired as a grid.

  Attributes:
    bounds: the times of a roofline that no step can beat.
    chip_name: what one of `num_chips` is called.
    compiler: the package whose compiler is asked.
    links: in words, what collectives are taken to use.
    knows_memory: it refuses a step that does not fit.
    weaker: lines on the figures that are not the compiler's for these chips.
  """

  kind, chip_name, links = "TPU", "chip", "all links of a chip, 1 us a hop"
  bounds = ("compute", "memory", "interconnect")
  compiler, compiler_title, knows_memory, weaker = "libtpu", "libtpu", True, ()

  def is_ring(self, side: int) -> bool:
    """Whether a side closes to a ring: in a flat slice if it is 16 long, else if 4 divides all."""
    return side == 16 if len(self.sides) == 2 else all(each % 4 == 0 for each in self.sides)

  @property
  def unit(self) -> str:
    return "chip" if self.chip.devices == 1 else f"device ({self.chip.devices} are one chip)"

  def wires(self, group: int = 0) -> Wires:
    """What an exchange in groups of so many devices (0: all) goes over.

    All links of a chip are taken to be used at once.

    A side of the slice gives a chip two links where it closes to a ring; where it does not, the
    chips at its ends have one, which bounds them all.
    """
    del group  # one of neighbours alone may need fewer hops
    link = self.chip.link_bandwidth / self.chip.devices
    links = sum(2 if self.is_ring(side) else 1 for side in self.sides if side > 1)
    hops = sum(side // 2 if self.is_ring(side) else side - 1 for side in self.sides)
    return Wires(link, links * link, hops * HOP_LATENCY)

  def compiler_devices(self) -> list:
    """As the function of this name."""
    for name, value in _ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    try:
      import libtpu  # noqa: F401 - it tells jax where its library is
    except ImportError:
      raise UserError(f"the TPU compiler is not installed: {how_to_install('libtpu')}") from None
    from jax.experimental import topologies

    try:
      return topologies.get_topology_desc(self.name, "tpu", **self.chip.options).devices
    except Exception as error:  # the plugin's own kinds
      raise UserError(
        f"this libtpu cannot compile for {self.name} ({str(error).splitlines()[0]}): "
        "choose another topology or libtpu"
      ) from error


def find_slice(name: str) -> Slice | Machines:
  """The slice of a name such as v5e:16x16, or the machines of one such as h100:8 or h100:4x8.

  Raises:
    UserError: there is none; names those that there are.
  """
  kind, _, shape = name.partition(":")
  known = CHIPS | GPUS
  chip = known.get(kind)
  if chip is None:
    close = difflib.get_close_matches(kind, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    examples = ", ".join(f"{each}:{known[each].shapes[-1]}" for each in known)
    raise UserError(
      f"topology {name!r} is unknown{hint}: give a chip, a colon and the shape of the slice; chips "
      f"are {', '.join(known)}, their largest slices {examples}"
    )
  if shape not in chip.shapes:
    names = ", ".join(f"{kind}:{each}" for each in chip.shapes)
    raise UserError(f"topology {name!r} is unknown: slices of {kind} are {names}")
  sides = tuple(map(int, shape.split("x")))
  return Machines(chip, sides) if isinstance(chip, Gpu) else Slice(chip, sides)


def compiler_devices(topology: Slice | Machines) -> list:
  """JAX's devices of the slice, for which programs can be compiled, but not run.

  Raises:
    UserError: the compiler is not installed, or does not know the slice.
  """
  return topology.compiler_devices()
