"""The mesh of devices, also of machines that are not there."""

import types

import numpy as np
import pytest

from pst_jax.errors import UserError
from train import sharding


def devices_of(*processes):
  """Devices in an order of their own, as those of a TPU slice are by their wires."""
  return [
    types.SimpleNamespace(id=number, process_index=process)
    for number, process in enumerate(processes)
  ]


@pytest.fixture(autouse=True)
def plain_mesh(monkeypatch):
  """Real devices alone make a real mesh."""
  monkeypatch.setattr(sharding, "Mesh", lambda devices, names, **_: devices)


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_processes_follow_each_other_as_their_parts_of_a_batch_do(fsdp):
  # The order in which libtpu lists the devices of a v5e:4x4.
  found = devices_of(0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3)
  mesh = sharding.make_mesh(fsdp, found[::-1])
  assert mesh.shape == (16 // fsdp, fsdp)
  assert [each.process_index for each in mesh.flat] == np.repeat(range(4), 4).tolist()


def test_processes_with_unequal_numbers_of_devices_are_refused():
  with pytest.raises(UserError, match=r"the processes have \[1, 3\] devices"):
    sharding.make_mesh(1, devices_of(0, 1, 1, 1))
