"""What the kinds of NVIDIA GPUs can do, with sources, and machines of them by name.

Peaks are of the SXM forms in NVIDIA's data sheets, without sparsity, which doubles what those
print for matrix products; the network is that of a DGX machine, one port a GPU.
"""

import contextlib
import dataclasses

from pst_jax.errors import UserError
from train.planning.chips import GIB, HOP_LATENCY, Chip, Topology, Wires

# JAX takes this part of the memory when it starts, and a program gets no more:
# https://docs.jax.dev/en/latest/gpu_memory_allocation.html
_PREALLOCATED = 0.75
_IN_A_MACHINE = 8
_SHAPES = ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Chip):
  """One kind of GPU; `link_bandwidth` is that of all its NVLinks in one direction."""

  page: str
  network_bandwidth: float  # bytes/s of one GPU's port to other machines, in one direction
  shapes: tuple[str, ...] = _SHAPES
  chips_per_host: int = _IN_A_MACHINE

  @property
  def source(self) -> str:
    return self.page


def _gpu(name, bf16_flops, memory, bandwidth, nvlink, network, page, cpus) -> Gpu:
  return Gpu(
    name=name,
    bf16_flops=bf16_flops,
    hbm_bytes=memory,
    usable_bytes=_PREALLOCATED * memory,
    hbm_bandwidth=bandwidth,
    link_bandwidth=nvlink / 2,  # data sheets give both directions together
    network_bandwidth=network / 8,  # bits
    page=f"https://www.nvidia.com/en-us/data-center/{page}/",
    host_cpus=cpus,
  )


# The H200's 141 GB are 143,771 MiB to nvidia-smi.
# Hardware threads of a DGX A100 (2 x EPYC 7742) and of a DGX H100 or H200 (2 x Xeon 8480C).
_ALL = (
  _gpu("a100", 312e12, 80 * GIB, 2039e9, 600e9, 200e9, "a100", 256),
  _gpu("h100", 989.4e12, 80 * GIB, 3350e9, 900e9, 400e9, "h100", 224),
  _gpu("h200", 989.4e12, 140 * GIB, 4800e9, 900e9, 400e9, "h200", 224),
)
GPUS = {chip.name: chip for chip in _ALL}


@dataclasses.dataclass(frozen=True)
class Machines(Topology):
  """GPUs of one kind: NVLink and NVSwitch inside a machine, a network between machines.

  The sides are (GPUs) of one machine, or (machines, GPUs of each).
  """

  kind, chip_name, unit = "GPU", "GPU", "GPU"
  compiler, compiler_title = "jaxlib", "XLA for CPUs of jaxlib"
  knows_memory, bounds = False, ("compute", "interconnect")
  weaker = (
    "temporaries and HBM traffic are of XLA's program for CPUs, which fuses less than that for",
    "GPUs, keeps copies of bfloat16 arrays in float32, and knows no workspace of cuDNN: the time",
    "by memory is no bound, and the least time is that of compute and interconnect alone;",
    "collectives are those that were asked for: the compiler for GPUs may merge small ones;",
    "float32 configs compute in TF32, at half of the peak that is given;",
    f"usable memory is the {_PREALLOCATED:.0%} that JAX takes by default: more with, for example,",
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92. Arguments and FLOPs are exact",
  )

  @property
  def links(self) -> str:
    where = "NVLink" if len(self.sides) == 1 else "a GPU's port to other machines"
    return f"{self.wires().bandwidth / 1e9:,.0f} GB/s of {where}, 1 us a hop"

  def wires(self, group: int = 0) -> Wires:
    """As `Slice.wires`: between machines only where more take part than one machine has.

    A ring through all GPUs leaves a machine by as many ports as it has GPUs.
    """
    inside = len(self.sides) == 1 or 0 < group <= self.sides[-1]
    rate = self.chip.link_bandwidth if inside else self.chip.network_bandwidth
    return Wires(rate, rate, HOP_LATENCY if inside else 2 * HOP_LATENCY)

  def compiler_devices(self) -> list:
    """As many fake devices of the CPU; the compiler for GPUs needs CUDA's libraries.

    Raises:
      UserError: JAX was started with fewer.
    """
    import jax

    with contextlib.suppress(RuntimeError):  # it was started before
      jax.config.update("jax_num_cpu_devices", self.num_devices)
    found = jax.devices("cpu")
    if len(found) < self.num_devices:
      raise UserError(
        f"{self.name} is planned with {self.num_devices} fake devices of the CPU, but JAX was "
        f"started with {len(found)}: plan it in a process of its own (python -m train.plan)"
      )
    return found[: self.num_devices]
