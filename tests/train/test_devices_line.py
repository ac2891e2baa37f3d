import types

import jax
import pytest

from train import devices


def pretend(monkeypatch, kind, platform, count, processes=1):
  each = types.SimpleNamespace(device_kind=kind)
  monkeypatch.setattr(jax, "devices", lambda: [each] * count)
  monkeypatch.setattr(jax, "local_device_count", lambda: count // processes)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(jax, "default_backend", lambda: platform)


@pytest.mark.parametrize(
  ("kind", "platform", "count", "processes", "line"),
  [
    ("NVIDIA H100", "gpu", 2, 1, "2 x NVIDIA H100"),
    ("TPU v5 lite", "tpu", 16, 2, "16 x TPU v5 lite in 2 processes"),
    ("cpu", "cpu", 1, 1, "cpu"),
    ("cpu", "cpu", 8, 1, "cpu (8 fake devices)"),
    ("cpu", "cpu", 4, 4, "cpu in 4 processes"),
    ("cpu", "cpu", 4, 2, "cpu (4 fake devices) in 2 processes"),
  ],
)
def test_the_line_names_kind_and_count(monkeypatch, kind, platform, count, processes, line):
  pretend(monkeypatch, kind, platform, count, processes)
  assert devices.describe() == line


@pytest.fixture
def platforms():
  """Sets what `JAX_PLATFORMS` says."""
  before = jax.config.jax_platforms
  yield lambda value: jax.config.update("jax_platforms", value)
  jax.config.update("jax_platforms", before)


def machine_with(root, file):
  (root / file).parent.mkdir(parents=True)
  (root / file).touch()
  return root


@pytest.mark.parametrize(
  ("file", "words"),
  [
    ("dev/nvidia0", "an NVIDIA GPU, but JAX computes on the CPU: pip install 'jax[cuda13]'"),
    ("proc/driver/nvidia/version", "an NVIDIA GPU, but JAX computes on the CPU"),
    ("dev/accel0", "a TPU, but JAX computes on the CPU: pip install 'jax[tpu]'"),
    ("dev/vfio/0", "a TPU, but JAX computes on the CPU"),
  ],
)
def test_an_accelerator_that_jax_does_not_use_is_pointed_out(platforms, tmp_path, file, words):
  platforms(None)
  assert words in devices.hint(machine_with(tmp_path, file))


def test_nothing_is_said_without_an_accelerator(platforms, tmp_path):
  platforms(None)
  assert devices.hint(tmp_path) is None


def test_nothing_is_said_where_the_user_chose_the_cpu(platforms, tmp_path):
  platforms("cpu")
  assert devices.hint(machine_with(tmp_path, "dev/nvidia0")) is None


def test_nothing_is_said_where_jax_uses_the_accelerator(monkeypatch, platforms, tmp_path):
  platforms(None)
  pretend(monkeypatch, "NVIDIA H100", "gpu", 1)
  assert devices.hint(machine_with(tmp_path, "dev/nvidia0")) is None


def test_a_run_says_both(monkeypatch):
  pretend(monkeypatch, "cpu", "cpu", 1)
  monkeypatch.setattr(devices, "hint", lambda: "install this")
  assert devices.lines() == ["devices: cpu", "install this"]
