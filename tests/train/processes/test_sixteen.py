"""Sixteen processes of one device each, as a pod's hosts are many and small."""

import pytest
from support.run_processes import TINY, start
from support.run_results import assert_close, last_state, lines

# 5 steps of 16 of the 41 examples, and one evaluation, in which every process has one example.
OPTIONS = f"{TINY} --batch-size 16 --epochs 2"
LAST = 5


@pytest.mark.exhaustive
def test_sixteen_processes_of_one_device_train_to_the_state_of_one(tmp_path):
  ends = {}
  for count in (1, 16):
    options = f"{OPTIONS} --run-dir {tmp_path}/{count}"
    with start(options, count, devices=1, patience=8) as run:
      ends[count] = run.ends(timeout=1500)
  for codes in ends.values():
    assert [(code, err) for code, _, err in codes if code] == []
  assert "in 16 processes" in ends[16][0][1]
  assert_close(last_state(tmp_path / "16", LAST), last_state(tmp_path / "1", LAST))
  (evaluated,) = [line for line in lines(tmp_path / "16") if "loss" not in line]
  assert evaluated["eval/count_k0"] == 41
