"""The arithmetic of a run on thousands of chips, by cases that are computed by hand."""

import json
import math

import pytest

from benchmarks import pod
from benchmarks.pod import Assumptions
from pst_jax.errors import UserError

HOUR = 3600
# v5e:16x16: both sides are rings of 16, so 16 hops and 4 links of 50 GB/s; 4 chips a host.
PLAN = {
  "model": "resnet50_pst",
  "topology": "v5e:16x16",
  "chips": 256,
  "batch_size": 8192,
  "batch_per_chip": 32.0,
  "fits": True,
  "state_bytes": 300_000_000,
  "roofline_seconds": {"least": 0.01},
  "steps_per_epoch": 100.0,
  "steps": 9000,
  "epochs": 90,
  "collectives": [
    # 2 x (16 us + 100 MB x 255/256 / 200 GB/s)
    {
      "kind": "all-reduce",
      "group": 256,
      "count": 1,
      "bytes": 102_400_000,
      "least_seconds": 2 * (16e-6 + 0.51e-3),
    }
  ],
}


def test_hops_and_bytes_of_a_collective_add_up_to_the_time_of_the_plan():
  (row,) = pod.exchanges(PLAN, Assumptions())
  assert (row["hops"], row["hop_seconds"]) == (32, pytest.approx(32e-6))
  assert row["link_seconds"] == pytest.approx(1.02e-3)
  assert row["dcn_seconds"] == 0


def test_between_slices_goes_a_part_from_every_chip_twice():
  # Of 400 kB a chip, 15/16, there and back, at 1 GB/s.
  (row,) = pod.exchanges(PLAN, Assumptions(slices=16, dcn_bytes=1e9))
  assert row["dcn_seconds"] == pytest.approx(2 * 375e-6)


def test_a_slow_network_between_slices_bounds_the_step():
  given = Assumptions(slices=16, dcn_bytes=1e6)
  assert pod.step_seconds(PLAN, given) == pytest.approx(0.75)
  assert pod.step_seconds(PLAN, Assumptions()) == 0.01
  assert pod.step_seconds(PLAN, Assumptions(step_seconds=0.1)) == 0.1


def test_hosts_decode_what_their_chips_eat():
  data = pod.input_pipeline(PLAN, Assumptions(images_per_cpu=100, image_bytes=1e5))
  assert data["hosts"] == 64
  assert data["images_per_second"] == pytest.approx(819_200)
  assert data["images_per_second_per_host"] == pytest.approx(12_800)
  assert data["cpus_needed_per_host"] == pytest.approx(128)
  assert data["cpus_per_host"] == 112
  assert data["bytes_per_second"] == pytest.approx(81.92e9)


def test_sixteen_slices_are_as_many_hosts_and_images():
  data = pod.input_pipeline(PLAN, Assumptions(slices=16))
  assert data["hosts"] == 1024
  assert data["images_per_second"] == pytest.approx(16 * 819_200)


def test_one_host_saves_and_all_read():
  saved = pod.checkpoint(PLAN, Assumptions(write_bytes=1e8, read_bytes=3e8))
  assert saved["save_seconds"] == pytest.approx(3)
  assert saved["restore_seconds"] == pytest.approx(1)
  assert saved["restore_bytes"] == 64 * 300_000_000


def test_the_interval_between_saves_is_dalys():
  # Young: sqrt(2 x 2 s x 10,000 s) = 200 s; the ratio of Daly's series is 1e-4.
  assert pod.daly_interval(2, 10_000) == pytest.approx(200 * (1 + 0.01 / 3 + 1e-4 / 9) - 2)
  # A save that takes twice the time between failures, or more: never to save is no answer either.
  assert pod.daly_interval(30_000, 10_000) == 10_000


def test_no_other_interval_is_better_than_dalys():
  def share(interval):
    return pod.useful_share(interval, 20, 600, 40_000)

  best = pod.daly_interval(20, 40_000)
  assert share(best) > max(share(0.9 * best), share(1.1 * best))


def test_without_failures_only_saving_takes_time():
  assert pod.useful_share(90, 10, 600, 1e12) == pytest.approx(0.9)


def test_a_failure_costs_a_restart_and_half_an_interval():
  # At first order: 10 s of 1,000 for the save, 500 s and 100 s at every 1e6 seconds.
  lost = 1 / pod.useful_share(990, 10, 100, 1e6) - 1
  assert lost == pytest.approx(10 / 990 + (500 + 100) / 1e6, rel=1e-2)


def test_more_chips_fail_more_often():
  given = Assumptions(chip_hours=51_200, write_bytes=1e8, read_bytes=1e8, restart_seconds=97)
  lost = pod.failures(PLAN, given)
  assert lost["mean_seconds"] == pytest.approx(200 * HOUR)
  assert lost["restart_seconds"] == pytest.approx(100)
  assert lost["young_seconds"] == pytest.approx(math.sqrt(2 * 3 * 200 * HOUR))
  assert lost["interval_epochs"] == pytest.approx(lost["interval_seconds"])  # 100 steps of 10 ms
  assert lost["no_failure"] == pytest.approx(math.exp(-90 / (200 * HOUR)))
  sixteen = pod.failures(PLAN, Assumptions(chip_hours=51_200, slices=16))
  assert sixteen["mean_seconds"] == pytest.approx(12.5 * HOUR)


def test_the_text_names_what_is_assumed(tmp_path, capsys):
  file = tmp_path / "plan.json"
  file.write_text(json.dumps(PLAN))
  pod.main([str(file), "--slices", "16", "--images-per-cpu", "100"])
  said = capsys.readouterr().out
  assert "resnet50_pst on 4,096 chips: 16 x v5e:16x16, 32 images a chip, 131,072 in all" in said
  assert "32 hops 32 us, links 1,020 us, between slices 240 us" in said
  assert "1,024 hosts: 12,800 images/s each, 128 of its 112 hardware threads" in said
  assert "they suffice for a step of 11.4 ms" in said
  assert "images_per_cpu   100" in said
  assert "longer than the run, so at its end" in said  # of 5.6 seconds
  pod.main([str(file), "--slices", "16", "--step-seconds", "10"])
  assert "steps, --checkpoint.every-epochs " in capsys.readouterr().out


@pytest.mark.parametrize(
  ("content", "options", "words"),
  [
    ("{", [], "cannot be read as a plan"),
    ('{"fits": false}', [], "no plan of a step that fits"),
    (json.dumps(PLAN), ["--write-bytes", "0"], "--write-bytes is 0.0, but it must be more than 0"),
  ],
)
def test_what_is_no_plan_is_said(tmp_path, content, options, words):
  file = tmp_path / "plan.json"
  file.write_text(content)
  with pytest.raises(UserError, match=words):
    pod.main([str(file), *options])
