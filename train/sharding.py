"""Where arrays live: the mesh of devices, the layout of batch, parameters, optimizer state."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config import ConfigError

# Arrays with fewer elements stay whole on every device: gathering them costs more than it saves.
LEAST_SHARDED = 2**14
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(fsdp: int = 1, devices=None) -> Mesh:
  """A mesh ("data", "fsdp") of all devices; the batch is split over both axes.

  Raises:
    ConfigError: when `fsdp` does not divide the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  if len(devices) % fsdp:
    raise ConfigError(
      f"fsdp={fsdp} does not divide the {len(devices)} devices: choose a divisor of {len(devices)}"
    )
  return jax.make_mesh(
    (len(devices) // fsdp, fsdp),
    ("data", "fsdp"),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(abstract_state, mesh: Mesh):
  """For every leaf: its largest axis that `fsdp` divides is split over it, small leaves stay whole.

  Args:
    abstract_state: tree of `jax.ShapeDtypeStruct`.
    mesh: from `make_mesh`.
  """
  size = mesh.shape["fsdp"]

  def spec(leaf):
    divisible = [i for i, n in enumerate(leaf.shape) if n % size == 0]
    if size == 1 or not divisible or np.prod(leaf.shape) < LEAST_SHARDED:
      return replicated(mesh)
    axis = max(divisible, key=lambda i: leaf.shape[i])
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), "fsdp"))

  return jax.tree.map(spec, abstract_state)


def put_batch(batch: dict, mesh: Mesh) -> dict:
  """The global batch on the devices, from the part that this process holds."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()
  }
