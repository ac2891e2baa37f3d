"""Memory at its peak and FLOPs against the chip's, of devices that are not there."""

import types

import jax
import pytest

import pst_jax
from train.config import Config
from train.run import log, utilization
from train.run.log import RunLog
from train.run.utilization import images_per_second_at_peak, peak_flops, peak_memory


@pytest.mark.parametrize(
  ("kind", "flops"),
  [
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12),
    ("TPU7x", 2307e12 / 2),
    ("NVIDIA H100 80GB HBM3", 989.4e12),
    ("NVIDIA H200", 989.4e12),
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("TPU v3", None),
    ("NVIDIA H100 PCIe", None),
    ("NVIDIA H100 NVL", None),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ("cpu", None),
    ("NVIDIA GeForce RTX 4090", None),
  ],
)
def test_the_peak_is_that_of_the_device_where_it_is_known(kind, flops):
  assert peak_flops(kind) == flops


def setup_on(kind, devices):
  mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
  found = types.SimpleNamespace(device_kind=kind)
  mesh = types.SimpleNamespace(size=devices, devices=mesh.devices.astype(object).copy())
  mesh.devices.flat[0] = found
  model = pst_jax.create_model("resnet18", num_classes=1000)
  return types.SimpleNamespace(config=Config(), model=model, mesh=mesh)


def test_the_rate_at_the_peak_counts_a_step_as_three_passes():
  """torchvision's documentation gives a ResNet-18 1.81 billion multiply-adds."""
  expected = 4 * 197e12 / (3 * 2 * 1.81e9)
  assert images_per_second_at_peak(setup_on("TPU v5 lite", 4)) == pytest.approx(expected, rel=0.01)


def test_where_the_chip_is_unknown_nothing_is_counted(monkeypatch):
  monkeypatch.delattr(utilization, "summarize")
  assert images_per_second_at_peak(setup_on("cpu", 4)) is None


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  full, empty = {"peak_bytes_in_use": 7, "bytes_in_use": 9}, {"peak_bytes_in_use": 3}
  devices = [types.SimpleNamespace(memory_stats=lambda stats=s: stats) for s in (empty, full, None)]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert peak_memory() == {"device_memory_peak_bytes": 7}


def test_a_device_that_does_not_tell_is_left_out(monkeypatch):
  devices = [types.SimpleNamespace(memory_stats=lambda: None)]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert peak_memory() == {}


@pytest.mark.parametrize(("at_peak", "expected"), [(400.0, 0.25), (None, None)])
def test_the_log_has_the_utilization_where_the_peak_is_known(
  tmp_path, monkeypatch, at_peak, expected
):
  now, written = [100.0], []
  monkeypatch.setattr(log, "monotonic", lambda: now[0])
  options = {"total_steps": 99, "images_per_step": 10, "images_per_second_at_peak": at_peak}
  with RunLog(tmp_path, **options) as run_log:
    monkeypatch.setattr(run_log, "write", lambda step, values: written.append(values))
    run_log.advance(1)
    now[0] += 2
    run_log.train(21, {"loss": 1.0})
  assert written[0]["images_per_second"] == 100
  assert written[0].get("model_flops_utilization") == expected
