"""Plans for GPUs: machines by name, their wires, and what is said of the weaker figures."""

import dataclasses
import json
import math

import jax
import pytest
from support.programs import ALL_REDUCE, FITTING, operation, program, step

from pst_jax.errors import UserError
from train import plan
from train.config import load_file
from train.options import parse
from train.planning import report
from train.planning.chips import GIB
from train.planning.compiling import limit
from train.planning.gpus import GPUS
from train.planning.hlo_cost import Collective
from train.planning.roofline import collective_seconds, roofline
from train.planning.topologies import compiler_devices, find_slice
from train.setup import make_setup

H100 = find_slice("h100:8")  # 989.4 TFLOP/s, 3,350 GB/s, NVLink of 450 GB/s in one direction


def test_a_name_gives_the_gpus_of_machines():
  assert (H100.name, H100.num_chips, H100.num_devices) == ("h100:8", 8, 8)
  assert find_slice("h200:4x8").num_chips == 32


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("h100:9", "slices of h100 are h100:1, h100:2, h100:4, h100:8, h100:2x8"),
    ("h10:8", r"did you mean h100\?"),
  ],
)
def test_a_wrong_name_lists_the_right_ones(name, words):
  with pytest.raises(UserError, match=words):
    find_slice(name)


@pytest.mark.parametrize("name", GPUS)
def test_every_figure_of_a_gpu_is_possible_and_has_a_source(name):
  chip = GPUS[name]
  assert chip.usable_bytes == 0.75 * chip.hbm_bytes
  assert 150 < chip.bf16_flops / chip.hbm_bandwidth < 600
  assert chip.network_bandwidth < chip.link_bandwidth < chip.hbm_bandwidth
  assert chip.source.startswith("https://www.nvidia.com/")


def test_the_work_takes_its_time_at_the_peaks():
  times = roofline(program(operation(flops=989.4e9, read=3350e6)), H100)
  assert times.compute == pytest.approx(1e-3)
  assert times.memory == pytest.approx(1e-3)


def test_the_traffic_of_the_program_for_cpus_is_no_bound():
  work = program(operation(flops=989.4e9, read=33_500e6))
  times = roofline(work, H100)
  assert (times.memory, times.binding) == (pytest.approx(10e-3), "compute")
  assert times.least == pytest.approx(1e-3)
  assert "10.00 ms  at 3,350 GB/s of HBM, no bound" in report.text(step(work, FITTING), H100)


def test_a_machine_sums_over_nvlink():
  assert collective_seconds(ALL_REDUCE, H100) == pytest.approx(2 * (1e-6 + 100e6 * 7 / 8 / 450e9))
  assert collective_seconds(Collective("collective-permute", 450_000, 0), H100) == pytest.approx(
    2e-6
  )
  assert collective_seconds(ALL_REDUCE, find_slice("h100:1")) == 0


def test_machines_sum_over_their_network():
  expected = 2 * (2e-6 + 100e6 * 31 / 32 / 50e9)
  assert collective_seconds(ALL_REDUCE, find_slice("h100:4x8")) == pytest.approx(expected)


def test_groups_that_fit_in_a_machine_stay_in_it():
  gather = Collective("all-gather", 10_000_000, 8)
  expected = 1e-6 + 80e6 * 7 / 8 / 450e9
  assert collective_seconds(gather, find_slice("h100:4x8")) == pytest.approx(expected)


def test_what_exceeds_the_memory_does_not_fit_though_the_compiler_says_nothing():
  too_much = dataclasses.replace(FITTING, arguments=90 * GIB)
  limited = limit(step(program(), too_much), H100)
  assert (limited.fits, limited.needed) == (False, too_much.total)
  assert limit(step(program(), FITTING), H100).fits
  # The compiler for TPUs has said it itself.
  assert limit(step(program(), too_much), find_slice("v5e:2x4")).fits


def test_the_text_says_which_figures_are_weaker_and_why():
  said = report.text(step(program(operation(flops=1e12)), FITTING), H100)
  assert "on h100:8: 8 GPUs" in said
  assert f"by XLA for CPUs of jaxlib {jax.lib.__version__}; nothing ran on a GPU" in said
  assert "WEAKER than what the compiler says of TPUs:" in said
  assert "temporaries and HBM traffic are of XLA's program for CPUs" in said
  assert "NVLink" in said
  assert "libtpu" not in said
  tpu = find_slice("v5e:2x4")
  assert tpu.weaker == ()


def test_fake_devices_stand_for_the_gpus():
  assert len(compiler_devices(H100)) == 8
  with pytest.raises(UserError, match=r"planned with 16 fake devices .* with 8: plan it"):
    compiler_devices(find_slice("h100:2x8"))


# A step that compiles in seconds, with its parameters split over 4 of 8 GPUs.
TINY = """--model.name resnet18 --eval-top-k 0 --model.stem small --model.width 0.25
  --data.image-size 16 --data.synthetic-classes 10 --model.batch-norm-group-size 4 --fsdp 4"""


@pytest.fixture(scope="module")
def tiny_plan(tmp_path_factory):
  file = tmp_path_factory.mktemp("plan") / "plan.json"
  options = f"synthetic --topology h100:8 --batch-per-chip 4 {TINY}"
  plan.main([*options.split(), "--json", str(file)])
  return json.loads(file.read_text())


@pytest.mark.slow
def test_arguments_are_exact(tiny_plan):
  config = parse(load_file("synthetic"), "synthetic", f"--batch-size 32 {TINY}".split())
  setup = make_setup(config, 10, 1024, jax.devices()[:8])
  leaves = jax.tree.leaves((setup.abstract_state, setup.abstract_batch))
  held = sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
  )
  assert tiny_plan["memory_per_device"]["arguments"] == pytest.approx(held, rel=1e-3)
  assert tiny_plan["state_bytes"] > 2 * held  # most of it is split


@pytest.mark.slow
def test_gpus_gather_the_parameters_and_sum_the_gradients(tiny_plan):
  kinds = {row["kind"] for row in tiny_plan["collectives"]}
  assert kinds >= {"all-gather", "all-reduce"}
  assert tiny_plan["jaxlib"] == jax.lib.__version__
  assert tiny_plan["weaker"]
