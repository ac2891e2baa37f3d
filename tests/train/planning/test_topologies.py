"""Names of slices, and how their chips are wired."""

import sys

import pytest

from pst_jax.errors import UserError
from train.planning.chips import CHIPS
from train.planning.topologies import compiler_devices, find_slice


def test_a_name_gives_the_chips_of_a_slice():
  where = find_slice("v5e:16x16")
  assert (where.name, where.num_chips, where.num_devices) == ("v5e:16x16", 256, 256)
  assert find_slice("tpu7x:2x2x1").num_devices == 8


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("v5e:5x5", "slices of v5e are v5e:1x1, v5e:2x2, .*v5e:16x16"),
    ("v5e", "slices of v5e are"),
    ("v5x:4x4", r"did you mean v5.\?.*chips are v4, v5e, v5p, v6e, tpu7x"),
    ("gpu", "chips are v4"),
  ],
)
def test_a_wrong_name_lists_the_right_ones(name, words):
  with pytest.raises(UserError, match=words):
    find_slice(name)


@pytest.mark.parametrize(
  ("name", "rings"),
  [("v5e:16x16", 2), ("v5e:8x16", 1), ("v5e:4x4", 0), ("v5p:4x4x4", 3), ("v5p:2x4x4", 0)],
)
def test_sides_that_close_to_rings(name, rings):
  where = find_slice(name)
  assert sum(map(where.is_ring, where.sides)) == rings


def test_without_libtpu_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  with pytest.raises(UserError, match="pip install libtpu"):
    compiler_devices(find_slice("v5e:2x2"))


@pytest.mark.parametrize("name", CHIPS)
def test_every_figure_of_a_chip_is_possible_and_has_a_source(name):
  chip = CHIPS[name]
  assert 0.9 * chip.hbm_bytes < chip.usable_bytes <= chip.hbm_bytes
  # All these chips compute from 150 to 600 operations for each byte from HBM.
  assert 150 < chip.bf16_flops / chip.hbm_bandwidth < 600
  assert chip.source.startswith("https://")
