"""A device whose copy of the state has changed is found and named."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.run_processes import REPOSITORY, free_port
from support.saved_states import mesh_of

from pst_jax.errors import UserError
from train import loop, sharding
from train.config import CheckpointConfig, Config, DataConfig, ModelConfig
from train.replicas import ReplicaCheck, differences
from train.run.profiling import Profiler

# 12 steps, 3 to the epoch; saved after 6 and 12.
CONFIG = Config(
  epochs=4,
  batch_size=8,
  eval_every_epochs=4,
  eval_top_k=(0,),
  check_replicas_every=2,
  model=ModelConfig(name="shallow", stem="small", width=0.125),
  data=DataConfig(
    dataset="synthetic", synthetic_examples=24, synthetic_classes=4, image_size=8, threads=1
  ),
  checkpoint=CheckpointConfig(every_epochs=2),
)


def placed(value, mesh, *spec) -> jax.Array:
  return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))


def changed_on(array: jax.Array, *devices: int) -> jax.Array:
  """The array, with one bit changed in what some devices hold of it."""
  parts = []
  for shard in array.addressable_shards:
    part = np.array(shard.data)
    if shard.device.id in devices:
      part.view(np.uint32).reshape(-1)[-1] ^= 1
    parts.append(jax.device_put(part, shard.device))
  return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def ids(found) -> dict[str, list[int]]:
  return {name: [device.id for device in devices] for name, devices in found.items()}


@pytest.mark.parametrize("device", [0, 5, 7])
def test_the_one_device_that_differs_is_named(device):
  whole = placed(np.arange(12, dtype=np.float32), mesh_of(8))
  assert differences({"a": whole, "b": whole}) == {}
  assert ids(differences({"a": whole, "b": changed_on(whole, device)})) == {"b": [device]}


def test_what_is_split_is_compared_with_the_same_part():
  mesh = sharding.make_mesh(fsdp=4)  # devices 0 to 3 hold what 4 to 7 hold
  split = placed(np.arange(64, dtype=np.float32).reshape(8, 8), mesh, "fsdp")
  assert differences({"a": split}) == {}
  assert ids(differences({"a": changed_on(split, 6)})) == {"a": [2, 6]}


def test_what_no_two_devices_hold_is_not_compared():
  split = placed(np.arange(64, dtype=np.float32), sharding.make_mesh(fsdp=8), "fsdp")
  assert differences({"a": changed_on(split, 3)}) == {}


def test_of_two_replicas_neither_is_believed():
  whole = placed(np.float32(1), mesh_of(2))
  assert ids(differences({"a": changed_on(whole, 1)})) == {"a": [0, 1]}


def test_an_array_of_one_device_has_no_replicas():
  assert differences({"a": jax.device_put(np.float32(1), jax.devices()[0])}) == {}


def test_it_is_compared_as_often_as_asked():
  whole = placed(np.float32(1), mesh_of(4))

  class Saved:
    latest_step = 4

  check = ReplicaCheck(3, 0, Saved())
  for step in (1, 2, 4, 5):
    check.check(step, {"a": changed_on(whole, 2)})
  check.check(3, {"a": whole})
  with pytest.raises(UserError, match=r"at step 6 .*cpu:2 of process 0 \(a\).* after step 3, and"):
    check.check(6, {"a": changed_on(whole, 2)})
  ReplicaCheck(0, 0, Saved()).check(3, {"a": changed_on(whole, 2)}, is_saved=True)


def test_what_is_saved_is_compared_before():
  class Saved:
    latest_step = 3

  whole, check = placed(np.float32(1), mesh_of(4)), ReplicaCheck(100, 3, Saved())
  with pytest.raises(UserError, match=r"at step 5 .*equal after step 3, and the newest .* step 3"):
    check.check(5, {"a": changed_on(whole, 2)}, is_saved=True)


@pytest.mark.slow
def test_a_run_stops_before_it_saves_what_a_device_has_spoiled(tmp_path, monkeypatch):
  run = Profiler.run

  def spoiled(self, step, function, state, batch):
    state, metrics = run(self, step, function, state, batch)
    if step == 9:
      leaves, structure = jax.tree.flatten(state.params)
      leaves[0] = changed_on(leaves[0], 3)
      state = state.replace(params=jax.tree.unflatten(structure, leaves))
    return state, metrics

  config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "run"))
  monkeypatch.setattr(Profiler, "run", spoiled)
  with pytest.raises(UserError, match=r"at step 10 .* step 8, and the newest checkpoint is .* 6"):
    loop.train(config)
  monkeypatch.setattr(Profiler, "run", run)
  assert int(loop.train(config).state.step) == 12


TWO_PROCESSES = """
import os, sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
sys.path[:0] = ["tests", "."]
import jax
import numpy as np

jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))

from jax.sharding import NamedSharding, PartitionSpec
from train import replicas, sharding

place = NamedSharding(sharding.make_mesh(), PartitionSpec())
values = [np.float32([1, 2]) for _ in jax.local_devices()]
values[0][1] += jax.process_index()  # on the first device of the second process
parts = [jax.device_put(x, device) for x, device in zip(values, jax.local_devices())]
whole = jax.make_array_from_single_device_arrays((2,), place, parts)
found = replicas.differences({"a": whole, "b": jax.device_put(np.float32(1), place)})
names = {name: [d.process_index for d in devices] for name, devices in found.items()}
first = [d == jax.devices()[2] for d in found["a"]]
print("found", names, first)
"""


@pytest.mark.slow
def test_every_process_names_the_device_of_the_other():
  address = f"localhost:{free_port()}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", TWO_PROCESSES, address, str(index)],
      cwd=REPOSITORY,
      stdout=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  outputs = [process.communicate(timeout=120)[0] for process in processes]
  assert all("found {'a': [1]} [True]" in output for output in outputs), outputs
