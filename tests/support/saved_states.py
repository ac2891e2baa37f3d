"""States and folders of checkpoints that the tests of saving share."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from train.run.checkpoints import Checkpoints

DTYPES = ["float32", "bfloat16", "float64", "int32", "uint32", "bool"]


def mesh_of(devices: int) -> jax.sharding.Mesh:
  return jax.make_mesh(
    (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
  )


def sharding(devices: int, *spec) -> NamedSharding:
  return NamedSharding(mesh_of(devices), P(*spec))


def random_bits(dtype: str, shape=(16, 24), seed=0) -> np.ndarray:
  """Every bit pattern, so also -0, infinities and NaNs with a payload."""
  bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * jnp.dtype(dtype).itemsize)
  if dtype == "bool":
    return (np.frombuffer(bits, np.uint8) % 2).astype(bool).reshape(shape)
  return np.frombuffer(bits, jnp.dtype(dtype)).reshape(shape)


def small_state(step: int, devices: int = 8) -> dict:
  """A state that differs from step to step in every leaf."""
  values = {
    "params": {"kernel": random_bits("float32", (64, 64), step), "bias": np.float32([step, 2, 3])},
    "step": np.int32(step),
  }
  specs = {"params": {"kernel": P("data"), "bias": P()}, "step": P()}
  return jax.tree.map(lambda x, spec: jax.device_put(x, sharding(devices, *spec)), values, specs)


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def same_bits(one, two) -> bool:
  return jax.tree.structure(one) == jax.tree.structure(two) and all(
    a.dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  )


def save_steps(directory, steps, **options) -> None:
  with Checkpoints(directory, **options) as checkpoints:
    for step in steps:
      checkpoints.save(step, small_state(step), metrics=None, extra={"step": step})


def steps_in(directory) -> list[int]:
  return sorted(int(x.name) for x in pathlib.Path(directory).iterdir() if x.name.isdecimal())


def data_file(directory, step: int) -> pathlib.Path:
  """The largest file of a checkpoint: the one that holds the arrays."""
  paths = [x for x in (directory / str(step) / "state").rglob("*") if x.is_file()]
  return max(paths, key=lambda x: x.stat().st_size)


def flip_bit(path: pathlib.Path) -> None:
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)
