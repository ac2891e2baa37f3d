"""Every call to the file system of a save, a restore or a start may fail: nothing is lost.

Each n-th write, fsync, open, read, rename or mkdir below the folder fails once, or from then on, or
moves half of its bytes (see support/faults.py); C++ libraries included.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from support import faults

from pst_jax.errors import UserError, abandon_threads, run_command

STRIDES = {
  "save": 1,
  "save in place": 3,
  "save that replaces": 3,
  "save and read back": 3,
  "restore": 1,
  "new run": 1,
  "resumed run": 1,
  "data set": 1,
  "weights folder": 5,
}
"""Scenarios of `support.fault_scenarios`: every so many-th call fails."""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
  built = faults.build(tmp_path_factory.mktemp("library"))
  return built or pytest.skip("there is no C compiler here, or this is no Linux")


def broken(results):
  return [each for each in results if each["broken"]]


# These take minutes; one call in seven of a save stands for them where all tests run.
EXHAUSTIVE = ("save", "save in place", "save that replaces", "save and read back", "weights folder")


@pytest.mark.slow
@pytest.mark.parametrize(
  "scenario",
  [
    pytest.param(each, marks=[pytest.mark.exhaustive] if each in EXHAUSTIVE else [])
    for each in STRIDES
  ],
)
def test_whatever_call_fails_nothing_is_lost_and_one_sentence_says_so(library, tmp_path, scenario):
  results = faults.run(library, scenario, tmp_path, STRIDES[scenario])
  assert broken(results) == []
  assert {each["fault"] for each in results} >= {"open EMFILE", "open ESTALE"}


def test_one_call_in_eleven_of_a_save_where_folders_cannot_be_renamed(library, tmp_path):
  results = faults.run(library, "save in place", tmp_path, stride=11)
  assert broken(results) == []
  said = {each["fault"]: each["said"] for each in results if each["said"]}
  assert said.keys() >= {"write ENOSPC", "fsync EIO", "open EMFILE"}


def test_one_call_in_seven_of_a_save(library, tmp_path):
  results = faults.run(library, "save", tmp_path, stride=7)
  assert broken(results) == []
  # It is no harness that never hits: all the kinds of calls failed, and were told.
  said = {each["fault"]: each["said"] for each in results if each["said"]}
  assert said.keys() >= {"write ENOSPC", "fsync EIO", "rename EIO", "open EMFILE"}
  assert "No space left on device" in said["write ENOSPC"]


ENDING = """
import ctypes, os, pathlib, sys
sys.path[:0] = ["", "tests"]
from support.fault_scenarios import SCENARIOS
from support.faults import FAULTS
from pst_jax.errors import run_command

def main(arguments):
  folder, scenario = pathlib.Path(arguments[0]), SCENARIOS["save"]
  scenario.prepare(folder)
  kind, number, keep = FAULTS["mkdir ENOSPC"]
  # The first three are made when the folder is opened, which is tried for what it can do.
  ctypes.CDLL(None).faults_arm(os.fsencode(folder), kind, 4, number, keep)
  scenario.act(folder)

run_command(main, sys.argv[1:])
"""


def test_a_command_whose_save_failed_waits_for_no_thread_of_it(library, tmp_path):
  """After this one Orbax's threads would wait for minutes for a folder that is never made."""
  done = subprocess.run(
    [sys.executable, "-c", ENDING, str(tmp_path / "folder")],
    cwd=pathlib.Path(__file__).parents[3],
    env=os.environ | {"LD_PRELOAD": str(library), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=100,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: Saving a checkpoint in")
  assert done.stderr.count("\n") == 1


def test_what_failed_before_a_command_does_not_end_the_process_with_it():
  def mistaken(arguments):
    raise UserError("a mistake")

  abandon_threads()
  with pytest.raises(SystemExit):
    run_command(mistaken, [])


def test_every_third_call_of_the_start_of_a_run(library, tmp_path):
  results = faults.run(library, "resumed run", tmp_path, stride=3)
  assert broken(results) == []
  said = " ".join(each["said"] for each in results if each["said"])
  assert "config.json cannot be read (Input/output error): check the disk" in said


def test_every_call_of_a_files_write(library, tmp_path):
  results = faults.run(library, "weights file", tmp_path)
  assert broken(results) == []
  assert [x["said"] is None for x in results if x["fault"] == "write short"] == [True]
