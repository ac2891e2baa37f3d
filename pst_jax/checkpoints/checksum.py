"""Checksums of arrays that do not depend on how an array is spread over devices and processes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped, UInt32


def checksums(arrays: list[Shaped[Array, "..."]]) -> list[str]:
  """One checksum of 16 hexadecimal digits for each array, computed on its devices without a gather.

  A checksum is two sums modulo 2^32, over all words of the array, of a bijective mix of the word's
  bits and its position. Sums of integers are exact in any order, so every sharding gives the same
  checksum; a change of any single word changes both sums.
  """
  sums = [_jitted(_mesh(array))(array) for array in arrays]
  return [np.asarray(pair).astype("<u4").tobytes().hex() for pair in jax.device_get(sums)]


def replica_checksums(array: Shaped[Array, "..."]) -> UInt32[Array, "devices 2"]:
  """A checksum of what each device of an array's mesh (by name) holds of it, each on its device.

  They are in the mesh's order; devices exchange nothing.
  """
  return _jitted_replicas(array.sharding.mesh, array.sharding.spec)(array)


@functools.cache
def _jitted_replicas(mesh, spec):
  return jax.jit(
    jax.shard_map(
      lambda part: _sums(part)[None],
      mesh=mesh,
      in_specs=spec,
      out_specs=PartitionSpec(mesh.axis_names),
      check_vma=False,  # the compiler must not take replicas for equal
    )
  )


def _mesh(array: Array) -> jax.sharding.Mesh | None:
  return array.sharding.mesh if isinstance(array.sharding, NamedSharding) else None


@functools.cache
def _jitted(mesh):
  # Replicated, so that every process of the mesh can read the sums. One compilation per shape:
  # all leaves of a ResNet-50's state in one function take five times longer to compile.
  return jax.jit(_sums, out_shardings=NamedSharding(mesh, PartitionSpec()) if mesh else None)


def _sums(array: Shaped[Array, "..."]) -> UInt32[Array, "2"]:
  if array.dtype == jnp.bool_:
    array = array.astype(jnp.uint8)
  # A 64-bit element becomes two words, in a last axis of its own.
  unsigned = jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}")
  words = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
  position, stride = jnp.ones(words.shape, jnp.uint32), 1
  for axis in reversed(range(words.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    position += index * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  position = _mix(position)
  seeds = np.array([1, 0x9E3779B1], np.uint32)
  return jnp.stack([_mix(words ^ (position * seed)).sum(dtype=jnp.uint32) for seed in seeds])


def _mix(h: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  """The integer hash `lowbias32` of C. Wellons' hash-prospector, a bijection of 32-bit words."""
  h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
  h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
  return h ^ (h >> 16)
