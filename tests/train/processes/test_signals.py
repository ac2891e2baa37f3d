"""Whatever asks a run to stop, in whatever phase: what is promised happens, and nothing is lost."""

import itertools
import pathlib
import signal
import time

import pytest
from support.run_processes import TINY, Run, start
from support.run_results import bits, last_state, lines

PHASES = pathlib.Path(__file__).parents[2] / "support" / "phases.py"
# 20 steps; saved after 6, 11, 15 and 20, evaluated after 11 and 20.
OPTIONS = f"{TINY} --epochs 4"
CLOSED = signal.SIGPIPE
"""Stands for a standard output that nobody reads any more."""


def begin(folder, phase: str, number: int, count: int) -> tuple[Run, pathlib.Path]:
  """A start of the run; the file that its last process makes when it comes to the phase."""
  file = folder / f"at {phase}".replace(" ", "-")
  file.unlink(missing_ok=True)
  # Output is lost only when something is printed.
  chatty = "--chatty" if number == CLOSED else ""
  programs = [
    f"{PHASES} {phase.replace(' ', '_')} {file if index == count - 1 else '-'} {chatty}"
    for index in range(count)
  ]
  return start(f"{OPTIONS} --run-dir {folder}/run", count, programs=programs), file


def interrupt(folder, phase: str, number: int, count: int) -> list[tuple[int, str, str]]:
  """What the processes end with when the last one gets a signal in the phase."""
  run, file = begin(folder, phase, number, count)
  with run:
    deadline = time.monotonic() + 600
    while not file.exists():
      assert time.monotonic() < deadline
      assert run.processes[-1].poll() is None, run.processes[-1].communicate()
      time.sleep(0.01)
    if number == CLOSED:
      run.processes[0].stdout.close()  # the first process is the one that prints
      run.processes[0].stdout = None
    else:
      run.signal(count - 1, number)
    # Not that long; but a hang, and no busy machine, shall fail.
    return run.ends(timeout=180)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(count of processes) -> the folder of a run that nobody stopped."""
  folders = {}

  def run(count):
    if count not in folders:
      folders[count] = folder = tmp_path_factory.mktemp(f"whole{count}")
      with start(f"{OPTIONS} --run-dir {folder}/run", count) as run:
        assert [code for code, *_ in run.ends()] == [0] * count
    return folders[count]

  return run


FRESH = ("imports", "restore", "compilation", "step")
RESUMED = (*FRESH, "evaluation", "save")
WITHOUT_A_STEP = ("imports", "restore", "compilation")


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, CLOSED)
# Four rotations meet every signal with every phase. One of one process runs with the other slow
# tests; the rest takes many minutes more.
ROTATIONS = [
  pytest.param(count, first, marks=[] if first == count == 1 else [pytest.mark.exhaustive])
  for count in (1, 2)
  for first in range(len(SIGNALS))
]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "first"), ROTATIONS)
def test_a_run_stopped_in_every_phase_ends_as_one_that_was_not(whole, tmp_path, count, first):
  signals = itertools.cycle(SIGNALS[first:] + SIGNALS[:first])
  for phase in FRESH + RESUMED:
    number = next(signals)
    ends = interrupt(tmp_path, phase, number, count)
    assert [code for code, *_ in ends] == [128 + number] * count, (phase, ends)
    said = "before the first step" if phase in WITHOUT_A_STEP else "at step"
    assert ends[0][2].count(f"stopped {said}") == 1, (phase, ends)
    assert "Traceback" not in "".join(err for *_, err in ends)
  ends = interrupt(tmp_path, "closing", next(signals), count)
  assert [code for code, *_ in ends] == [0] * count, ends
  assert "Traceback" not in "".join(err for *_, err in ends)
  assert lines(tmp_path / "run") == lines(whole(count) / "run")
  assert bits(last_state(tmp_path / "run", 20)) == bits(last_state(whole(count) / "run", 20))


def test_ctrl_c_while_the_first_modules_are_imported_ends_in_one_line(tmp_path):
  ((code, _, err),) = interrupt(tmp_path, "early imports", signal.SIGINT, 1)
  assert (code, err) == (130, "stopped; give the same command again to go on\n")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path, monkeypatch):
  monkeypatch.setenv("REST_SECONDS", "30")
  run, file = begin(tmp_path, "evaluation", signal.SIGINT, 1)
  with run:
    while not file.exists():
      assert run.processes[0].poll() is None
      time.sleep(0.01)
    run.signal(0, signal.SIGINT)
    time.sleep(1.2)  # long enough to be no echo of the first
    run.signal(0, signal.SIGINT)
    ((code, _, err),) = run.ends(timeout=10)
  assert (code, err) == (
    130,
    "stopped at once, without saving; give the same command again to go on\n",
  )


@pytest.mark.slow
def test_a_suspended_process_ends_the_other_with_a_sentence_and_stacks(tmp_path):
  # Without a step for 15 s, while starting and compiling for 60: well before JAX's heartbeat, whose
  # end of 60 s is an abort.
  options = f"{OPTIONS} --epochs 4000 --run-dir {tmp_path}/run --stall-minutes 0.25"
  with start(options, 2) as run:
    run.wait_for_step(tmp_path / "run", 3)
    run.signal(1, signal.SIGSTOP)
    first = run.processes[0]
    _, err = first.communicate(timeout=180)
    assert first.returncode == 1, err
    run.signal(1, signal.SIGCONT)
    ends = run.processes[1].communicate(timeout=180)
    assert run.processes[1].returncode == 1
  assert err.count("error: no progress for 0.25 minutes while") == 1
  assert "Traceback" not in err
  assert "error: process 0 of 2 stopped: no progress for 0.25 minutes" in ends[1]
  for index in range(2):
    assert "most recent call first" in (tmp_path / "run" / f"stacks-{index}.txt").read_text()
