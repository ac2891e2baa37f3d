"""Observers of a run's log: each line once, over any number of starts, and no fault reaches it."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from support.recording_observer import FAILS, NAME, points, recorded

from pst_jax.errors import Stopped, UserError
from train.config import Config
from train.config_values import check
from train.run.log import RunLog
from train.run.observers import process
from train.run.observers.names import NAMES
from train.run.observers.process import ObserverProcess
from train.run.observers.registry import OBSERVERS, require_installed

REPOSITORY = pathlib.Path(__file__).parents[3]
FACTS = {"run_id": "0123456789abcdef", "name": "mine", "config": {"seed": 7}, "pid": os.getpid()}
# One line a step, and an evaluation after each second one.
LINES = [(step, {"loss": 1 / step}) for step in range(1, 7)]
LINES[2:2] = [(2, {"eval/top1_k0": 0.25})]
LINES[5:5] = [(4, {"eval/top1_k0": float("inf")})]


def observed(folder, lines, start_step=0, name=NAME, **options) -> list[ObserverProcess]:
  """Logs the lines after a step to an observer, as a run that goes on from there."""
  observers = [ObserverProcess(name, FACTS, folder, start_step)]
  options = {"total_steps": 9, "images_per_step": 1, "observers": observers} | options
  with RunLog(folder, start_step=start_step, **options) as log:
    for step, values in lines:
      if step > start_step:
        log.write(step, values)
  return observers


def all_of(lines) -> list[tuple]:
  return [(number, *line) for number, line in enumerate(lines)]


def test_an_observer_gets_each_line_and_the_end(tmp_path, capsys):
  observed(tmp_path, LINES)
  first, *_, last = recorded(tmp_path)
  assert first == {"begin": FACTS["run_id"], "name": "mine", "config": {"seed": 7}}
  assert points(tmp_path) == all_of(LINES)
  assert last == {"close": "finished"}
  # What its library prints is kept apart from what is said to the user.
  out = capsys.readouterr().out
  assert f"{NAME}: a file\n" in out
  assert "chatter" not in out
  assert "chatter" in (tmp_path / "loggers" / f"{NAME.replace(':', '.')}.log").read_text()


def test_a_resumed_run_gives_no_line_twice(tmp_path):
  """It had come to step 4 and goes on from step 2, which it evaluates as before."""
  observed(tmp_path, LINES[:6])
  observed(tmp_path, LINES, start_step=2)
  assert points(tmp_path) == all_of(LINES)
  begun = [each["begin"] for each in recorded(tmp_path) if "begin" in each]
  assert begun == [FACTS["run_id"]] * 2


def test_an_evaluation_that_a_kill_kept_from_it_comes_with_the_next_start(tmp_path):
  observed(tmp_path, LINES[:2])
  observed(tmp_path, LINES, start_step=1)
  assert points(tmp_path) == all_of(LINES)


def test_an_observer_that_joins_later_gets_all_that_was_logged_before(tmp_path):
  observed(tmp_path, LINES[:6], observers=[])
  assert not (tmp_path / "loggers").exists()
  observed(tmp_path, LINES, start_step=4)
  assert points(tmp_path) == all_of(LINES)


@pytest.mark.parametrize("where", ["begin", "write"])
def test_a_fault_is_one_sentence_and_is_made_up_for_at_the_next_start(
  tmp_path, monkeypatch, capsys, where
):
  monkeypatch.setenv(FAILS, where)
  observed(tmp_path, LINES[:4])
  out = capsys.readouterr().out
  sentence = f"{NAME} has failed (ConnectionError: no route to the service): training goes on"
  assert out.count(sentence) == out.count("failed") == 1
  assert points(tmp_path) == []
  monkeypatch.delenv(FAILS)
  observed(tmp_path, LINES, start_step=3)
  assert points(tmp_path) == all_of(LINES)


def test_an_observer_that_cannot_be_imported_is_one_sentence(tmp_path, capsys):
  observed(tmp_path, LINES, name="support.recording_observer:Nothing")
  out = capsys.readouterr().out
  assert out.count("has failed") == 1
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(LINES)


def test_nobody_waits_for_an_observer_that_hangs(tmp_path, monkeypatch, capsys):
  """More is written than a pipe holds; the end says that it goes on, and it does."""
  monkeypatch.setenv(FAILS, "hang")
  monkeypatch.setattr(process, "_PATIENCE", {"finished": 0.1})
  lines = [(step, {f"value_{i}": float(i) for i in range(100)}) for step in range(1, 101)]
  (observer,) = observed(tmp_path, lines)
  try:
    assert "is not done yet: it goes on in the background" in capsys.readouterr().out
    assert observer._process.poll() is None
  finally:
    observer._process.kill()
    observer._process.wait()


def test_what_does_not_fit_into_memory_is_left_out_and_said_once(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv(FAILS, "hang")
  monkeypatch.setattr(process, "_PATIENCE", {"finished": 0.1})
  monkeypatch.setattr(process, "_MOST_WAITING", 2**17)
  lines = [(step, {f"value_{i}": float(i) for i in range(100)}) for step in range(1, 301)]
  (observer,) = observed(tmp_path, lines)
  observer._process.kill()
  observer._process.wait()
  assert capsys.readouterr().out.count("does not keep up: some of the lines") == 1


def test_an_observer_that_dies_is_one_sentence(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv(FAILS, "hang")
  observers = [ObserverProcess(NAME, FACTS, tmp_path, 0)]
  with RunLog(tmp_path, total_steps=9, images_per_step=1, observers=observers) as log:
    observers[0]._process.kill()
    observers[0]._process.wait()
    for line in LINES:
      log.write(*line)
  assert capsys.readouterr().out.count("has failed (its process has ended): training goes on") == 1


@pytest.mark.parametrize(
  ("error", "status"),
  [(Stopped, "stopped"), (KeyboardInterrupt, "stopped"), (UserError, "failed")],
)
def test_an_observer_is_told_how_a_run_ended(tmp_path, error, status):
  observers = [ObserverProcess(NAME, FACTS, tmp_path, 0)]
  with (
    pytest.raises(error),
    RunLog(tmp_path, total_steps=9, images_per_step=1, observers=observers) as log,
  ):
    log.write(*LINES[0])
    raise error("why")
  observers[0]._process.wait(60)
  assert recorded(tmp_path)[-1] == {"close": status}


def test_an_observer_outlives_a_run_that_is_killed(tmp_path):
  """It sends what it has and ends; the next start goes on after it."""
  script = f"""
import os, pathlib, signal
from train.run.log import RunLog
from train.run.observers.process import ObserverProcess
folder = pathlib.Path({str(tmp_path)!r})
observers = [ObserverProcess({NAME!r}, {FACTS!r}, folder, 0)]
with RunLog(folder, total_steps=9, images_per_step=1, observers=observers) as log:
  for line in {LINES[:2]!r}:
    log.write(*line)
  os.write(observers[0]._process.stdin.fileno(), b'{{"step": 3, "ti')
  os.kill(os.getpid(), signal.SIGKILL)
"""
  paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
  done = subprocess.run(
    [sys.executable, "-c", script], cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": paths}
  )
  assert done.returncode == -signal.SIGKILL
  deadline = time.monotonic() + 120
  while {"close": "stopped"} not in recorded(tmp_path):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  observed(tmp_path, LINES, start_step=1)
  assert points(tmp_path) == all_of(LINES)


def test_a_run_in_a_bucket_goes_on_without_it(capsys, tmp_path, monkeypatch):
  """Nothing is made under the name of the bucket, as if that were a folder here."""
  monkeypatch.chdir(tmp_path)
  observer = ObserverProcess(NAME, FACTS, "gs://bucket/run", 0)
  (sentence,) = observer.begin()
  assert f"{NAME} keeps in the run folder how far it is, for which this one must be on" in sentence
  assert observer.write(1, {"loss": 1.0}) == observer.close("finished") == []
  assert not list(tmp_path.iterdir())


def test_other_processes_of_a_run_start_no_observer(tmp_path):
  observed(tmp_path, LINES, enabled=False)
  assert not list(tmp_path.iterdir())


def test_without_tensorboard_its_folder_is_not_made(tmp_path):
  observed(tmp_path, LINES[:1], tensorboard=False, observers=[])
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


# Names


def test_every_name_has_an_observer():
  assert set(NAMES) == {"tensorboard", *OBSERVERS}


@pytest.mark.parametrize("loggers", [(), ("tensorboard", "wandb"), ("a.b:C",)])
def test_loggers_that_may_be(loggers):
  check(Config(loggers=loggers))


@pytest.mark.parametrize("loggers", [("wand",), ("wandb", "wandb"), ("a.b",)])
def test_loggers_that_may_not_be(loggers):
  message = r"^loggers is .*, but it must be some of tensorboard, wandb, mlflow, trackio, or module"
  with pytest.raises(UserError, match=message):
    check(Config(loggers=loggers))


def test_an_observer_that_is_not_installed_says_how_to_install_it(monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name)
  )
  with pytest.raises(UserError, match=r"has wandb, but wandb is not installed: pip install wandb,"):
    require_installed(["wandb"])
  with pytest.raises(
    UserError, match=r"has nowhere\.at:All, but nowhere\.at is not installed: giv"
  ):
    require_installed(["nowhere.at:All"])
  require_installed([NAME])


# The services, in what they have without a network. Each run is resumed from step 2.


@pytest.fixture
def twice(tmp_path, monkeypatch):
  """Logs with a service, in two starts; returns the folder."""

  def run(name, **variables):
    for variable, value in variables.items():
      monkeypatch.setenv(variable, str(value))
    observed(tmp_path / "run", LINES[:6], name=name)
    observed(tmp_path / "run", LINES, start_step=2, name=name)
    return tmp_path / "run"

  (tmp_path / "run").mkdir()
  monkeypatch.setattr(process, "_PATIENCE", {"finished": 120.0})
  return run


def values_of(name) -> list[tuple[int, float]]:
  return [(step, values[name]) for step, values in LINES if name in values]


@pytest.mark.slow
def test_mlflow(twice, tmp_path):
  pytest.importorskip("mlflow")
  store = tmp_path / "mlruns"
  twice("mlflow", MLFLOW_TRACKING_URI=store.as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
  (run,) = [path.parent for path in store.glob("*/*/metrics")]
  for name in ("loss", "eval/top1_k0"):
    rows = [line.split() for line in (run / "metrics" / name).read_text().splitlines()]
    assert [(int(step), float(value)) for _, value, step in rows] == values_of(name)
  assert (run / "params" / "seed").read_text() == "7"
  assert "status: 3" in (run / "meta.yaml").read_text()  # finished


@pytest.mark.slow
def test_trackio(twice, tmp_path):
  pytest.importorskip("trackio")
  sqlite3 = pytest.importorskip("sqlite3")
  twice("trackio", TRACKIO_DIR=tmp_path / "trackio")
  with sqlite3.connect(tmp_path / "trackio" / "pst_jax.db") as base:
    rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
  assert {name for name, *_ in rows} == {"mine-01234567"}
  found = [(step, json.loads(text)) for _, step, text in rows]
  assert [(step, x["loss"]) for step, x in found if "loss" in x] == values_of("loss")
  assert len(found) == len(LINES)


@pytest.mark.slow
def test_wandb(twice):
  pytest.importorskip("wandb")
  folder = twice("wandb", WANDB_MODE="offline")
  files = sorted(folder.glob("loggers/wandb/offline-run-*/run-0123456789abcdef.wandb"))
  assert len(files) == 2  # without a network each start is a part of its own, with the same id
  rows = [row for file in files for row in wandb_history(file)]
  assert [row["_step"] for row in rows] == list(range(len(LINES)))
  for name in ("loss", "eval/top1_k0"):
    assert [(row["step"], row[name]) for row in rows if name in row] == values_of(name)


def wandb_history(file) -> list[dict]:
  """The rows of an offline run: records of LevelDB's log format, each a protocol buffer."""
  from wandb.proto.wandb_internal_pb2 import Record

  data, at, whole, rows = file.read_bytes(), 7, b"", []
  while at + 7 <= len(data):
    if 2**15 - at % 2**15 < 7:  # the rest of a block is padding
      at += 2**15 - at % 2**15
      continue
    length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    whole += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # whole, or the last part
      record = Record.FromString(whole)
      whole = b""
      if record.WhichOneof("record_type") == "history":
        items = record.history.item
        rows.append({".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
  return rows
