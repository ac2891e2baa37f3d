"""What the kinds of TPU chips can do, with sources.

Peaks are those of Google Cloud's documentation, except where a source is named beside the value;
"scaling book" is https://jax-ml.github.io/scaling-book/tpus.
`usable_bytes` is what libtpu 0.0.52 leaves to a program ("exceeds available HBM (15.75G)").
Hosts are the machine types of GKE with 4 chips, of which slices of several hosts are made:
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
"""

import dataclasses
import math

GIB = 2**30
# Seconds of one hop between neighbours, however small the message:
# https://jax-ml.github.io/scaling-book/sharding ("typically around 1us").
HOP_LATENCY = 1e-6

_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_CUBES += ("8x16x16",)


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of chip, as topologies are named."""

  name: str
  bf16_flops: float  # peak bfloat16 FLOP/s
  hbm_bytes: float
  usable_bytes: float  # of them, what a program may use
  hbm_bandwidth: float  # bytes/s
  link_bandwidth: float  # bytes/s of one link between two chips in one direction
  shapes: tuple[str, ...]  # slices that are offered
  devices: int = 1  # of JAX in a chip; each has an equal part of it
  clock: float | None = None  # cycles/s, where published
  chips_per_host: int = 4
  host_cpus: int = 0  # hardware threads of a host
  options: dict = dataclasses.field(default_factory=dict)  # for `get_topology_desc`

  @property
  def flops_per_device(self) -> float:
    return self.bf16_flops / self.devices

  @property
  def bandwidth_per_device(self) -> float:
    return self.hbm_bandwidth / self.devices

  @property
  def source(self) -> str:
    return f"https://cloud.google.com/tpu/docs/{self.name}"


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips of one kind that a program is compiled for."""

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


@dataclasses.dataclass(frozen=True)
class Wires:
  """How data leave a device of a slice."""

  link: float  # bytes/s to one neighbour
  bandwidth: float  # bytes/s over all links that a collective uses at once
  latency: float  # seconds for the smallest message to cross the slice once


# Both cores of a v4 are one device; its documentation has no value for a link.
_V4_OPTIONS, _V4_LINK = {"chip_config_name": "megacore"}, 45e9  # scaling book
_V5E_CLOCK = 1.5e9  # scaling book
_V5P_SHAPES = (*_CUBES, "16x16x16", "16x16x24")

# Links: the documented bandwidth, both ways over all 4 (v5e, v6e) or 6 links of a chip, for one.
# HBM: of the 96 GiB of a v5p 95 are documented as usable.
_ALL = (
  Chip("v4", 275e12, 32 * GIB, 30.75 * GIB, 1200e9, _V4_LINK, _CUBES, options=_V4_OPTIONS),
  Chip("v5e", 197e12, 16 * GIB, 15.75 * GIB, 819e9, 400e9 / 8, _SQUARES, clock=_V5E_CLOCK),
  Chip("v5p", 459e12, 96 * GIB, 95.73 * GIB, 2765e9, 1200e9 / 12, _V5P_SHAPES),
  Chip("v6e", 918e12, 32 * GIB, 31.24 * GIB, 1638e9, 800e9 / 8, _SQUARES),
  Chip("tpu7x", 2307e12, 192 * GIB, 2 * 94.74 * GIB, 7380e9, 1200e9 / 12, _CUBES, devices=2),
)
_HOST_CPUS = {"v4": 240, "v5e": 112, "v5p": 208, "v6e": 180, "tpu7x": 224}
CHIPS = {chip.name: dataclasses.replace(chip, host_cpus=_HOST_CPUS[chip.name]) for chip in _ALL}
