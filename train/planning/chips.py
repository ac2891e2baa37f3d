"""What the kinds of TPU chips can do, with sources.

Peaks are those of Google Cloud's documentation, except where a source is named beside the value.
`usable_bytes` is what libtpu 0.0.52 leaves to a program ("exceeds available HBM (15.75G)").
"""

import dataclasses

GIB = 2**30
SCALING_BOOK = "https://jax-ml.github.io/scaling-book/tpus"
# Seconds of one hop between neighbours, however small the message:
# https://jax-ml.github.io/scaling-book/sharding ("typically around 1us").
HOP_LATENCY = 1e-6

_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
  "2x2x1",
  "2x2x2",
  "2x2x4",
  "2x4x4",
  "4x4x4",
  "4x4x8",
  "4x8x8",
  "8x8x8",
  "8x8x16",
  "8x16x16",
)


@dataclasses.dataclass(frozen=True)
class Chip:
  """Attributes:
  name: of the kind, as topologies are named.
  bf16_flops: peak bfloat16 FLOP/s of a chip.
  hbm_bytes: memory of a chip.
  usable_bytes: of it, what a program may use.
  hbm_bandwidth: bytes/s of a chip.
  link_bandwidth: bytes/s of one link between two chips in one direction.
  devices: of JAX in a chip; each has an equal part of it.
  clock: cycles/s; None: not published.
  shapes: slices that are offered.
  wraps: a side of a slice closes to a ring where ("side16") it is 16 chips long, or ("cubes") all
    sides are multiples of 4.
  options: for `jax.experimental.topologies.get_topology_desc`.
  source: of the figures.
  """

  name: str
  bf16_flops: float
  hbm_bytes: float
  usable_bytes: float
  hbm_bandwidth: float
  link_bandwidth: float
  devices: int
  clock: float | None
  shapes: tuple[str, ...]
  wraps: str
  source: str
  options: dict = dataclasses.field(default_factory=dict)


CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name="v4",
      bf16_flops=275e12,
      hbm_bytes=32 * GIB,
      usable_bytes=30.75 * GIB,
      hbm_bandwidth=1200e9,
      link_bandwidth=45e9,  # SCALING_BOOK; the documentation of v4 has no figure
      devices=1,
      clock=None,
      shapes=_CUBES,
      wraps="cubes",
      source="https://cloud.google.com/tpu/docs/v4",
      options={"chip_config_name": "megacore"},  # both cores of a chip are one device
    ),
    Chip(
      name="v5e",
      bf16_flops=197e12,
      hbm_bytes=16 * GIB,
      usable_bytes=15.75 * GIB,
      hbm_bandwidth=819e9,
      link_bandwidth=400e9 / 8,  # 400 GB/s both ways over 4 links
      devices=1,
      clock=1.5e9,  # SCALING_BOOK
      shapes=_SQUARES,
      wraps="side16",
      source="https://cloud.google.com/tpu/docs/v5e",
    ),
    Chip(
      name="v5p",
      bf16_flops=459e12,
      hbm_bytes=96 * GIB,  # of which 95 are documented as usable
      usable_bytes=95.73 * GIB,
      hbm_bandwidth=2765e9,
      link_bandwidth=1200e9 / 12,
      devices=1,
      clock=None,
      shapes=(*_CUBES, "16x16x16", "16x16x24"),
      wraps="cubes",
      source="https://cloud.google.com/tpu/docs/v5p",
    ),
    Chip(
      name="v6e",
      bf16_flops=918e12,
      hbm_bytes=32 * GIB,
      usable_bytes=31.24 * GIB,
      hbm_bandwidth=1638e9,
      link_bandwidth=800e9 / 8,
      devices=1,
      clock=None,
      shapes=_SQUARES,
      wraps="side16",
      source="https://cloud.google.com/tpu/docs/v6e",
    ),
    Chip(
      name="tpu7x",
      bf16_flops=2307e12,
      hbm_bytes=192 * GIB,
      usable_bytes=2 * 94.74 * GIB,
      hbm_bandwidth=7380e9,
      link_bandwidth=1200e9 / 12,
      devices=2,
      clock=None,
      shapes=_CUBES,
      wraps="cubes",
      source="https://cloud.google.com/tpu/docs/tpu7x",
    ),
  )
}
