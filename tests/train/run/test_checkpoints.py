"""Saving and restoring: checksums, devices, what is kept, processes."""

import errno
import json
import os
import socket
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from support.saved_states import (
  DTYPES,
  abstract,
  random_bits,
  same_bits,
  save_steps,
  sharding,
  small_state,
  steps_in,
)

from pst_jax.checkpoints import layout, write
from pst_jax.checkpoints.checksum import checksums
from pst_jax.errors import UserError
from train.run.checkpoints import Checkpoints, restore

# Digests


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_is_the_same_for_every_sharding(dtype):
  with jax.enable_x64(True):
    array = random_bits(dtype)
    placed = [
      jax.device_put(array, SingleDeviceSharding(jax.devices()[3])),
      jax.device_put(array, sharding(8)),
      jax.device_put(array, sharding(8, "data")),
      jax.device_put(array, sharding(4, None, "data")),
    ]
    assert len({checksums([x])[0] for x in placed}) == 1


@pytest.mark.parametrize("dtype", DTYPES[:-1])
def test_digest_changes_with_any_single_bit(dtype):
  with jax.enable_x64(True):
    array = random_bits(dtype, (3, 5))
    raw = np.frombuffer(array.tobytes(), np.uint8)
    changed = []
    for bit in range(8 * raw.size):
      flipped = raw.copy()
      flipped[bit // 8] ^= 1 << bit % 8
      changed.append(jnp.asarray(flipped.view(array.dtype).reshape(array.shape)))
    assert len(set(checksums([jnp.asarray(array), *changed]))) == 8 * raw.size + 1


def test_digest_changes_when_two_elements_change_places():
  array = np.arange(12, dtype=np.float32).reshape(3, 4)
  assert len(set(checksums([jnp.asarray(array), jnp.asarray(array[::-1])]))) == 2


# Saving and restoring


@pytest.mark.parametrize("devices", [8, 4, 1])
def test_a_checkpoint_of_eight_devices_restores_to_the_bit(tmp_path, devices):
  with jax.enable_x64(True):
    values = {name: random_bits(name) for name in DTYPES}
    values |= {f"replicated_{name}": random_bits(name, (3, 5)) for name in DTYPES}
    values |= {f"scalar_{name}": random_bits(name, ()) for name in DTYPES}
    values |= {"key": jax.random.key_data(jax.random.key(5))}

    def placed(devices):
      return {
        name: jax.device_put(x, sharding(devices, *(["data"] if name in DTYPES else [])))
        for name, x in values.items()
      }

    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(3, placed(8), metrics=None, extra={})
      restored = checkpoints.restore(abstract(placed(devices)))
    assert same_bits(restored.state, values)
    assert all(len(x.sharding.device_set) == devices for x in restored.state.values())


class Momentum(NamedTuple):
  trace: dict
  count: jax.Array


def test_the_structure_of_the_state_comes_back(tmp_path):
  state = {"opt_state": (Momentum({"w": jnp.ones(3)}, jnp.int32(1)), ()), "ema": None}
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, metrics=None, extra={})
    assert same_bits(checkpoints.restore(abstract(state)).state, state)


def test_a_step_has_its_name_when_every_file_of_it_is_on_the_disk(tmp_path, monkeypatch):
  synced, sync = [], write.sync_folder
  monkeypatch.setattr(write, "sync_folder", lambda path: (synced.append(path), sync(path)))
  save_steps(tmp_path, [1])
  before = {str(path).partition("-tmp")[2] for path in synced if "-tmp" in str(path)}
  files = {path for path in (tmp_path / "1").rglob("*") if path.is_file()}
  inner = {str(path.relative_to(tmp_path / "1")) for path in files if path.parent.name != "1"}
  assert {path.partition("/")[2] for path in before} >= inner
  assert "record/metadata" in inner
  assert synced[-1] == tmp_path


def test_extra_and_metrics_come_back(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    metrics = {"top1": np.float32(0.5), "loss": float("nan")}
    checkpoints.save(1, small_state(1), metrics=metrics, extra={"sizes": (1, 2), "ways": {3: "x"}})
    restored = checkpoints.restore(abstract(small_state(0)))
  assert restored.extra == {"sizes": [1, 2], "ways": {"3": "x"}}
  assert restored.metrics["top1"] == 0.5
  assert np.isnan(restored.metrics["loss"])


@pytest.mark.parametrize("devices", [1, 8])
def test_a_state_donated_right_after_save_is_saved_as_it_was(tmp_path, devices):
  spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 7, tree), donate_argnums=0)
  values = np.arange(2**20, dtype=np.float32)
  with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
    for step in range(4):
      state = {"x": jax.device_put(values + step, sharding(devices, "data"))}
      checkpoints.save(step, state, metrics=None, extra={})
      for _ in range(3):
        state = spoil(state)
      jax.block_until_ready(state)
    for step in range(4):
      restored = checkpoints.restore(abstract(state), step)
      assert np.array_equal(restored.state["x"], values + step)


def test_the_latest_and_the_best_stay_also_after_a_restart(tmp_path):
  top1 = {1: 0.2, 2: 0.9, 3: float("nan"), 4: 0.3, 5: 0.4, 6: None, 7: 0.1}
  for steps in ([1, 2, 3, 4], [5, 6, 7]):
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
      for step in steps:
        checkpoints.save(step, small_state(step), metrics=None, best=top1[step], extra={})
  assert steps_in(tmp_path) == [2, 6, 7]
  assert restore(tmp_path, abstract(small_state(0)), "best").step == 2
  assert restore(tmp_path, abstract(small_state(0)), "latest").step == 7


def test_the_best_is_not_forgotten_when_its_record_cannot_be_read(tmp_path, monkeypatch):
  with Checkpoints(tmp_path) as checkpoints:
    for step, top1 in ((1, 0.9), (2, 0.1), (3, 0.2)):
      checkpoints.save(step, small_state(step), best=top1, extra={})
  read_record = layout.read_record

  def failing(directory, step):
    if step == 1:
      raise OSError(errno.EIO, os.strerror(errno.EIO))
    return read_record(directory, step)

  monkeypatch.setattr(layout, "read_record", failing)
  sentence = r"of step 1 in .* cannot be read \(Input/output error\), .* nothing was moved"
  with pytest.raises(UserError, match=sentence):
    Checkpoints(tmp_path)
  with pytest.raises(UserError, match=sentence):
    restore(tmp_path, abstract(small_state(0)), "best")
  monkeypatch.setattr(layout, "read_record", read_record)
  assert steps_in(tmp_path) == [1, 2, 3]


def test_best_is_the_latest_when_nothing_was_measured(tmp_path):
  save_steps(tmp_path, [1, 2])
  assert restore(tmp_path, abstract(small_state(0)), "best").step == 2


def test_no_checkpoint_restores_none(tmp_path):
  with Checkpoints(tmp_path / "new") as checkpoints:
    assert checkpoints.latest_step is None
    assert checkpoints.restore(abstract(small_state(0))) is None


def test_read_only_makes_no_folder(tmp_path):
  assert restore(tmp_path / "new", abstract(small_state(0))) is None
  assert not (tmp_path / "new").exists()


def test_an_unknown_step_lists_the_steps(tmp_path):
  save_steps(tmp_path, [1, 2])
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"step 7.*\[2, 1\]"):
    checkpoints.restore(abstract(small_state(0)), 7)


# States that do not fit


def test_leaves_that_do_not_fit_are_named_and_nothing_is_moved(tmp_path):
  save_steps(tmp_path, [1])
  wanted = abstract(small_state(0))
  wanted["params"]["kernel"] = jax.ShapeDtypeStruct((16, 7), jnp.float32, sharding=sharding(1))
  wanted["params"]["scale"] = wanted["params"].pop("bias")
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as error:
    checkpoints.restore(wanted)
  assert "lacks: params/scale" in str(error.value)
  assert "in excess: params/bias" in str(error.value)
  assert "params/kernel float32[64, 64] instead of float32[16, 7]" in str(error.value)
  assert steps_in(tmp_path) == [1]


def test_another_dtype_does_not_fit(tmp_path):
  save_steps(tmp_path, [1])
  wanted = abstract(small_state(0))
  wanted["step"] = jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding(1))
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"step int32\[\]"):
    checkpoints.restore(wanted)


# Processes

TWO = """
import json, os, sys, time
port, index, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
jax.distributed.initialize(f"localhost:{port}", 2, index, heartbeat_timeout_seconds=10)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from train.run.checkpoints import Checkpoints

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
values = lambda step: {"x": np.arange(64 * 3).reshape(64, 3) * step, "y": np.float32(step)}
placed = lambda step: {
  "x": jax.device_put(values(step)["x"], NamedSharding(mesh, P("data"))),
  "y": jax.device_put(values(step)["y"], NamedSharding(mesh, P())),
}
wanted = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed(0)
)
with Checkpoints(directory, keep_latest=3) as checkpoints:
  for step in (1, 2, 3):
    checkpoints.save(step, placed(step), metrics=None, extra={})
  checkpoints.wait()
  # One process alone sees the damage, of a record and of an array; both must fall back.
  if index == 1:
    from pst_jax.checkpoints import layout as files, read as reading
    read, read_checkpoint, checksums = files.read_record, reading.read_checkpoint, reading.checksums
    def broken(directory, step):
      if step == 3:
        raise ValueError("not readable from here")
      return read(directory, step)
    def late(directory, step, *arguments):
      wrong = lambda arrays: ["0"] * len(checksums(arrays))
      reading.checksums = wrong if step == 2 else checksums
      restored = read_checkpoint(directory, step, *arguments)
      # The other one has moved what is passed over before this one has read what is good.
      time.sleep(2)
      return restored
    files.read_record, reading.read_checkpoint = broken, late
  restored = checkpoints.restore(wanted)
  good = all(np.array_equal(s.data, values(1)["x"][s.index])
             for s in restored.state["x"].addressable_shards)
  checkpoints.save(4, placed(4), metrics=None, extra={})
# To a file: Gloo writes to standard output too, at any time and into any line.
open(f"{directory}-{index}.json", "w").write(json.dumps([restored.step, bool(good)]))
"""


@pytest.mark.slow
def test_two_processes_save_fall_back_together_and_one_process_restores(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", TWO, str(port), str(index), str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    errors = [process.communicate(timeout=600)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  for index, error in enumerate(errors):
    result = tmp_path.with_name(f"{tmp_path.name}-{index}.json")
    assert result.exists(), error
    assert json.loads(result.read_text()) == [1, True]
  assert steps_in(tmp_path) == [1, 4]
  values = np.arange(64 * 3).reshape(64, 3)
  wanted = {
    "x": jax.ShapeDtypeStruct((64, 3), jnp.int32, sharding=sharding(4, "data")),
    "y": jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding(4)),
  }
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(wanted)
  assert restored.step == 4
  assert np.array_equal(restored.state["x"], values * 4)
