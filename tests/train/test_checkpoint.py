import json
import logging
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from train.checkpoint import Checkpoints, check_directory, read_extra
from train.config import ConfigError
from train.digest import digests

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
    assert len({digests([x])[0] for x in placed}) == 1


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
    assert len(set(digests([jnp.asarray(array), *changed]))) == 8 * raw.size + 1


def test_digest_changes_when_two_elements_change_places():
  array = np.arange(12, dtype=np.float32).reshape(3, 4)
  assert len(set(digests([jnp.asarray(array), jnp.asarray(array[::-1])]))) == 2


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


def test_extra_and_metrics_come_back(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    metrics = {"top1": np.float32(0.5), "loss": float("nan")}
    checkpoints.save(1, small_state(1), metrics=metrics, extra={"sizes": (1, 2), "ways": {3: "x"}})
    restored = checkpoints.restore(abstract(small_state(0)))
  assert restored.extra == {"sizes": [1, 2], "ways": {"3": "x"}}
  assert restored.metrics["top1"] == 0.5
  assert np.isnan(restored.metrics["loss"])


def test_extra_is_readable_without_the_arrays(tmp_path):
  save_steps(tmp_path, [1, 2])
  shutil.rmtree(tmp_path / "2" / "state")
  assert read_extra(tmp_path, 2) == read_extra(tmp_path) == {"step": 2}


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
        metrics = None if top1[step] is None else {"top1": top1[step]}
        checkpoints.save(step, small_state(step), metrics=metrics, extra={})
  assert steps_in(tmp_path) == [2, 6, 7]
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.restore(abstract(small_state(0)), "best").step == 2
    assert checkpoints.restore(abstract(small_state(0)), "latest").step == 7


def test_best_is_the_latest_when_nothing_was_measured(tmp_path):
  save_steps(tmp_path, [1, 2])
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.restore(abstract(small_state(0)), "best").step == 2


def test_no_checkpoint_restores_none(tmp_path):
  with Checkpoints(tmp_path / "new") as checkpoints:
    assert checkpoints.latest_step is None
    assert checkpoints.restore(abstract(small_state(0))) is None


def test_read_only_makes_no_folder(tmp_path):
  with Checkpoints(tmp_path / "new", read_only=True) as checkpoints:
    assert checkpoints.restore(abstract(small_state(0))) is None
  assert not (tmp_path / "new").exists()


def test_an_unknown_step_lists_the_steps(tmp_path):
  save_steps(tmp_path, [1, 2])
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ConfigError, match=r"step 7.*\[2, 1\]"):
    checkpoints.restore(abstract(small_state(0)), 7)


def test_a_checkpoint_is_due_at_the_interval_and_once(tmp_path):
  with Checkpoints(tmp_path, save_every=3) as checkpoints:
    assert [s for s in range(1, 8) if checkpoints.should_save(s)] == [3, 6]
    assert not any(checkpoints.reached_preemption(s) for s in range(1, 8))
    checkpoints.save(6, small_state(6), metrics=None, extra={})
    assert checkpoints.latest_step == 6
    assert not checkpoints.should_save(6)


# States that do not fit


def test_leaves_that_do_not_fit_are_named_and_nothing_is_moved(tmp_path):
  save_steps(tmp_path, [1])
  wanted = abstract(small_state(0))
  wanted["params"]["kernel"] = jax.ShapeDtypeStruct((16, 7), jnp.float32, sharding=sharding(1))
  wanted["params"]["scale"] = wanted["params"].pop("bias")
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ConfigError) as error:
    checkpoints.restore(wanted)
  assert "lacks: params/scale" in str(error.value)
  assert "in excess: params/bias" in str(error.value)
  assert "params/kernel float32[64, 64] instead of float32[16, 7]" in str(error.value)
  assert steps_in(tmp_path) == [1]


def test_another_dtype_does_not_fit(tmp_path):
  save_steps(tmp_path, [1])
  wanted = abstract(small_state(0))
  wanted["step"] = jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding(1))
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ConfigError, match=r"step int32\[\]"):
    checkpoints.restore(wanted)


# Damage

DAMAGES = {
  "truncated": lambda d: os.truncate(data_file(d, 2), data_file(d, 2).stat().st_size // 2),
  "flipped": lambda d: flip_bit(data_file(d, 2)),
  "deleted": lambda d: data_file(d, 2).unlink(),
  "no arrays": lambda d: shutil.rmtree(d / "2" / "state"),
  "arrays of another step": lambda d: (
    shutil.rmtree(d / "2" / "state"),
    shutil.copytree(d / "1" / "state", d / "2" / "state"),
  ),
  "no record": lambda d: shutil.rmtree(d / "2" / "record"),
  "changed record": lambda d: flip_bit(d / "2" / "record" / "metadata"),
  "empty": lambda d: (shutil.rmtree(d / "2"), (d / "2").mkdir()),
}


@pytest.fixture
def caught(caplog):
  caplog.set_level(logging.WARNING, "train.checkpoint")
  return caplog


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caught, damage):
  save_steps(tmp_path, [1, 2])
  DAMAGES[damage](tmp_path)
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(abstract(small_state(0)))
  assert restored.step == 1
  assert same_bits(restored.state, small_state(1))
  (message,) = [r.getMessage() for r in caught.records if r.name == "train.checkpoint"]
  assert "step 2" in message
  assert "step 1 is used" in message


def test_a_damaged_step_is_kept_aside_and_can_be_saved_again(tmp_path):
  for _ in range(2):
    save_steps(tmp_path, [1, 2] if not (tmp_path / "1").exists() else [2])
    flip_bit(data_file(tmp_path, 2))
    with Checkpoints(tmp_path) as checkpoints:
      assert checkpoints.restore(abstract(small_state(0))).step == 1
      assert checkpoints.latest_step == 1
      assert checkpoints.should_save(2)
  save_steps(tmp_path, [2])
  assert sorted(x.name for x in (tmp_path / "damaged").iterdir()) == ["2", "2.1"]
  with Checkpoints(tmp_path) as checkpoints:
    assert same_bits(checkpoints.restore(abstract(small_state(0))).state, small_state(2))


@pytest.mark.slow
def test_whatever_file_is_damaged_only_saved_content_is_restored(tmp_path, caught):
  save_steps(tmp_path / "good", [1, 2])
  names = [
    x.relative_to(tmp_path / "good")
    for x in (tmp_path / "good" / "2").rglob("*")
    if x.is_file() and x.stat().st_size
  ]
  assert len(names) > 8
  ways = [pathlib.Path.unlink, flip_bit]
  for name in names:
    for way in ways:
      shutil.copytree(tmp_path / "good", tmp_path / "bad")
      way(tmp_path / "bad" / name)
      with Checkpoints(tmp_path / "bad", read_only=True) as checkpoints:
        restored = checkpoints.restore(abstract(small_state(0)))
      assert same_bits(restored.state, small_state(restored.step))
      shutil.rmtree(tmp_path / "bad")


def test_best_gives_way_to_the_next_best(tmp_path):
  with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
    for step, top1 in {1: 0.5, 2: 0.9, 3: 0.7}.items():
      checkpoints.save(step, small_state(step), metrics={"top1": top1}, extra={})
  flip_bit(data_file(tmp_path, 2))
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.restore(abstract(small_state(0)), "best").step == 3
  assert steps_in(tmp_path) == [1, 2, 3]


def test_when_all_are_damaged_the_error_lists_them_and_nothing_is_moved(tmp_path):
  save_steps(tmp_path, [1, 2])
  flip_bit(data_file(tmp_path, 1))
  (tmp_path / "2" / "record" / "metadata").unlink()
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ConfigError, match=r"step 2.*step 1"):
    checkpoints.restore(abstract(small_state(0)))
  assert steps_in(tmp_path) == [1, 2]


def test_a_damaged_step_that_was_asked_for_is_an_error(tmp_path):
  save_steps(tmp_path, [1, 2])
  flip_bit(data_file(tmp_path, 2))
  with Checkpoints(tmp_path) as checkpoints, pytest.raises(ConfigError, match="step 2"):
    checkpoints.restore(abstract(small_state(0)), 2)


def test_a_half_written_checkpoint_is_not_seen_and_is_cleaned_up(tmp_path):
  save_steps(tmp_path, [1, 2])
  (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(abstract(small_state(0))).step == 1
    checkpoints.save(2, small_state(2), metrics=None, extra={})
  assert sorted(x.name for x in tmp_path.iterdir()) == ["1", "2"]


KILLED = """
import sys
import jax.numpy as jnp
from train.checkpoint import Checkpoints
with Checkpoints(sys.argv[1]) as checkpoints:
  for step in range(1, 10_000):
    state = {"x": jnp.arange(1_000_003) * step, "y": jnp.full(7, step)}
    checkpoints.save(step, state, metrics=None, extra={})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_after_kill_9_the_newest_checkpoint_is_complete(tmp_path):
  for wait in (0.0, 0.1):
    process = subprocess.Popen(
      [sys.executable, "-c", KILLED, str(tmp_path / str(wait))], stdout=subprocess.PIPE, text=True
    )
    try:
      while int(process.stdout.readline()) < 5:
        pass
      time.sleep(wait)
    finally:
      process.send_signal(signal.SIGKILL)
      process.communicate()
    wanted = {
      "x": jax.ShapeDtypeStruct((1_000_003,), jnp.int32, sharding=sharding(1)),
      "y": jax.ShapeDtypeStruct((7,), jnp.int32, sharding=sharding(1)),
    }
    with Checkpoints(tmp_path / str(wait)) as checkpoints:
      restored = checkpoints.restore(wanted)
    assert restored.step >= 3
    assert np.array_equal(restored.state["x"], np.arange(1_000_003) * restored.step)


# Disks


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="cannot be written"):
    Checkpoints(tmp_path / "file" / "checkpoints")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_an_error_at_once(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(ConfigError, match="cannot be written"):
    Checkpoints(tmp_path)


def test_too_little_room_is_an_error_that_names_both_sizes(tmp_path):
  with pytest.raises(ConfigError, match=r"need 1e\+09 GB .* GB are free"):
    check_directory(tmp_path, 10**18)


def test_the_room_needed_counts_all_checkpoints_that_are_kept(tmp_path, monkeypatch):
  free = 10 * 4000
  monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
  state = {"x": jax.ShapeDtypeStruct((1000,), jnp.float32)}
  with Checkpoints(tmp_path, keep_latest=8) as checkpoints:
    checkpoints.require_space(state)
  with Checkpoints(tmp_path, keep_latest=9) as checkpoints, pytest.raises(ConfigError):
    checkpoints.require_space(state)


class limited_files:
  """Files of this process cannot grow beyond a size: writing fails as on a full disk."""

  def __init__(self, size: int):
    self.size = size

  def __enter__(self):
    self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

  def __exit__(self, *_):
    resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_failed_save_names_the_last_good_checkpoint_and_leaves_no_step(tmp_path, caplog):
  big = {"x": jnp.asarray(random_bits("uint32", (2**20,)))}
  with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
    checkpoints.save(1, big, metrics=None, extra={})
    checkpoints.wait()
    with limited_files(2**20), pytest.raises(ConfigError, match="last good one is step 1"):
      checkpoints.save(2, big, metrics=None, extra={})
      checkpoints.wait()
  assert not [record for record in caplog.records if record.exc_info]
  with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
    restored = checkpoints.restore(abstract(big))
    assert restored.step == 1
    assert same_bits(restored.state, big)
    checkpoints.save(2, big, metrics=None, extra={})
  assert [x.name for x in tmp_path.iterdir()] == ["2"]


def test_a_failed_last_save_is_an_error_when_the_run_ends(tmp_path):
  big = {"x": jnp.asarray(random_bits("uint32", (2**20,)))}
  with limited_files(2**20), pytest.raises(ConfigError, match="there is none before it"):  # noqa: SIM117
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(2, big, metrics=None, extra={})


def test_the_error_that_ends_a_run_is_not_hidden_by_a_failed_save(tmp_path):
  big = {"x": jnp.asarray(random_bits("uint32", (2**20,)))}
  with limited_files(2**20), pytest.raises(ConfigError, match="loss is not finite"):  # noqa: SIM117
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(2, big, metrics=None, extra={})
      raise ConfigError("loss is not finite")


# Processes

TWO = """
import json, os, sys
port, index, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
jax.distributed.initialize(f"localhost:{port}", 2, index, heartbeat_timeout_seconds=10)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from train.checkpoint import Checkpoints

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
values = lambda step: {"x": np.arange(64 * 3).reshape(64, 3) * step, "y": np.float32(step)}
placed = lambda step: {
  "x": jax.device_put(values(step)["x"], NamedSharding(mesh, P("data"))),
  "y": jax.device_put(values(step)["y"], NamedSharding(mesh, P())),
}
wanted = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed(0)
)
with Checkpoints(directory) as checkpoints:
  for step in (1, 2):
    checkpoints.save(step, placed(step), metrics=None, extra={})
  checkpoints.wait()
  # One process alone sees the damage; both must fall back.
  if index == 1:
    from train import checkpoint_files as files
    read = files.read_record
    def broken(directory, step):
      if step == 2:
        raise ValueError("not readable from here")
      return read(directory, step)
    files.read_record = broken
  restored = checkpoints.restore(wanted)
  good = all(np.array_equal(s.data, values(1)["x"][s.index])
             for s in restored.state["x"].addressable_shards)
  checkpoints.save(3, placed(3), metrics=None, extra={})
print(json.dumps([restored.step, bool(good)]))
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
    outputs = [process.communicate(timeout=100) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for out, err in outputs:
    assert out, err
    assert json.loads(out.splitlines()[-1]) == [1, True]
  assert steps_in(tmp_path) == [1, 3]
  values = np.arange(64 * 3).reshape(64, 3)
  wanted = {
    "x": jax.ShapeDtypeStruct((64, 3), jnp.int32, sharding=sharding(4, "data")),
    "y": jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding(4)),
  }
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(wanted)
  assert restored.step == 3
  assert np.array_equal(restored.state["x"], values * 3)
