"""Where arrays live: the mesh of devices, the layout of batch, parameters, optimizer state."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pst_jax.errors import UserError

# Arrays with fewer elements stay whole on every device: gathering them costs more than it saves.
LEAST_SHARDED = 2**14
BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(fsdp: int = 1, devices=None) -> Mesh:
  """A mesh ("data", "fsdp") of all devices; the batch is split over both axes.

  Raises:
    UserError: when `fsdp` does not divide the number of devices, or processes have unequal numbers.
  """
  devices = jax.devices() if devices is None else devices
  if len(devices) % fsdp:
    raise UserError(
      f"fsdp={fsdp} does not divide the {len(devices)} devices: choose a divisor of {len(devices)}"
    )
  counts = collections.Counter(device.process_index for device in devices)
  if len(set(counts.values())) > 1:
    raise UserError(
      f"the processes have {sorted(set(counts.values()))} devices, but each must have as many as "
      "the others: give all the same"
    )
  # Process by process: each puts its own rows on its devices, and theirs must be its place in the
  # global batch. `jax.make_mesh` lays TPUs along their wires, where the devices of a process are no
  # neighbours; it splits a side of most slices over no two axes; and it refuses several machines.
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  return Mesh(
    np.array(ordered).reshape(-1, fsdp),
    ("data", "fsdp"),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(abstract_state, mesh: Mesh):
  """For each leaf: its largest axis that `fsdp` divides is split over it; small ones stay whole."""
  size = mesh.shape["fsdp"]

  def spec(leaf):
    divisible = [i for i, n in enumerate(leaf.shape) if n % size == 0]
    if size == 1 or not divisible or np.prod(leaf.shape) < LEAST_SHARDED:
      return replicated(mesh)
    axis = max(divisible, key=lambda i: leaf.shape[i])
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), "fsdp"))

  return jax.tree.map(spec, abstract_state)


def gather(tree, shardings, mesh: Mesh):
  """The tree whole on every device: all that `fsdp` splits crosses the wires in one all-gather.

  Left to the compiler it would be one for each leaf. All that are split must be of one type;
  `shardings` are those of `state_shardings`.
  """
  leaves, structure = jax.tree.flatten(tree)
  specs = [place.spec for place in jax.tree.leaves(shardings)]
  axes = [list(spec).index("fsdp") if "fsdp" in spec else None for spec in specs]
  split = [i for i, axis in enumerate(axes) if axis is not None]
  if not split:
    return tree

  def exchange(*parts):
    parts = [jnp.moveaxis(part, axes[i], 0) for i, part in zip(split, parts, strict=True)]
    flat = jnp.concatenate([part.ravel() for part in parts])
    pieces = jnp.split(
      jax.lax.all_gather(flat, "fsdp"), np.cumsum([part.size for part in parts])[:-1], axis=1
    )
    # Each piece is [fsdp, size of a part]: the parts of a leaf follow each other on its split axis.
    return [
      jnp.moveaxis(piece.reshape(-1, *part.shape[1:]), 0, axes[i])
      for i, part, piece in zip(split, parts, pieces, strict=True)
    ]

  whole = jax.shard_map(
    exchange,
    mesh=mesh,
    in_specs=tuple(specs[i] for i in split),
    out_specs=PartitionSpec(),
    check_vma=False,  # it does not know that what was gathered is the same everywhere
  )(*[leaves[i] for i in split])
  for i, leaf in zip(split, whole, strict=True):
    leaves[i] = leaf
  return jax.tree.unflatten(structure, leaves)


def put_batch(batch: dict, mesh: Mesh) -> dict:
  """The global batch on the devices, from the part that this process holds."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()
  }
