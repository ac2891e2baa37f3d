import gc
import json
import os
import pathlib
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from pst_jax.errors import UserError
from train.run import log as run_log
from train.run import metric_files
from train.run.log import RunLog

REPOSITORY = pathlib.Path(__file__).parents[3]


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test sets."""
  now = [100.0]
  monkeypatch.setattr(run_log, "monotonic", lambda: now[0])
  return now


def open_log(folder, **options) -> RunLog:
  return RunLog(folder, **({"total_steps": 100, "images_per_step": 32} | options))


def lines(folder) -> list[dict]:
  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  text = (folder / "metrics.jsonl").read_text()
  return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events(folder) -> list[Event]:
  """All TensorBoard events: records of length, checksum, content, checksum."""
  found = []
  for path in sorted((folder / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      found.append(Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return found


# metrics.jsonl


def test_each_call_is_a_line_with_its_step_on_disk_at_once(tmp_path):
  with open_log(tmp_path) as log:
    log.write(3, {"loss": jnp.float32(0.5), "count": np.int64(7), "name": "a"})
    assert lines(tmp_path) == [{"step": 3, "loss": 0.5, "count": 7, "name": "a"}]


def test_what_is_logged_is_on_the_disk_before_a_checkpoint(tmp_path, monkeypatch):
  synced, fsync = [], os.fsync

  def remember(handle):
    synced.append(os.readlink(f"/proc/self/fd/{handle}"))
    fsync(handle)

  with open_log(tmp_path) as log:
    log.write(3, {"loss": 0.5})
    monkeypatch.setattr(os, "fsync", remember)
    log.sync()
  assert synced == [str(tmp_path / "metrics.jsonl")]


def test_a_float32_loss_is_written_to_the_bit(tmp_path):
  loss = np.float32(0.1)
  with open_log(tmp_path) as log:
    log.write(1, {"loss": loss})
  assert np.float32(lines(tmp_path)[0]["loss"]).tobytes() == loss.tobytes()


def test_values_that_are_not_finite_are_strings(tmp_path):
  with open_log(tmp_path) as log:
    log.write(1, {"a": jnp.float32("nan"), "b": float("inf"), "c": np.float32("-inf")})
  assert lines(tmp_path) == [{"step": 1, "a": "nan", "b": "inf", "c": "-inf"}]


def test_resuming_drops_the_lines_after_the_step(tmp_path):
  with open_log(tmp_path) as log:
    for step in (10, 20, 30, 40):
      log.write(step, {"loss": step})
  with open_log(tmp_path, start_step=20) as log:
    assert [x["step"] for x in lines(tmp_path)] == [10, 20]
    log.write(30, {"loss": -30})
  assert [x["loss"] for x in lines(tmp_path)] == [10, 20, -30]
  assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize(
  "tail",
  ['{"step": 20, "lo', '{"step": 2', "\x00\x00", '"step"', "[1]", "[" * 100_000],
  ids=lambda tail: tail[:20],
)
def test_a_last_line_that_was_cut_off_is_dropped(tmp_path, tail):
  (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n' + tail)
  with open_log(tmp_path, start_step=50) as log:
    log.write(60, {})
  assert [x["step"] for x in lines(tmp_path)] == [10, 60]


def test_a_last_line_without_its_newline_is_completed(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}')
  with open_log(tmp_path, start_step=20) as log:
    log.write(30, {})
  assert [x["step"] for x in lines(tmp_path)] == [10, 20, 30]


def test_a_file_with_nothing_to_drop_is_not_rewritten(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n')
  before = (tmp_path / "metrics.jsonl").stat().st_ino
  with open_log(tmp_path, start_step=10):
    pass
  assert (tmp_path / "metrics.jsonl").stat().st_ino == before


def test_other_processes_write_and_print_nothing(tmp_path, capsys):
  with open_log(tmp_path, enabled=False) as log:
    log.advance(1)
    log.train(1, {"loss": 1.0})
    log.write(1, {"top1": 1.0})
    with log.activity("evaluation"):
      log.message("hello")
    log.summary([("a", "b")], ["c"])
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr().out == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
@pytest.mark.parametrize("file", ["metrics.jsonl", "tensorboard/*"])
def test_a_full_disk_ends_the_run_in_one_sentence(tmp_path, capfd, monkeypatch, file):
  monkeypatch.setattr(metric_files, "_FLUSH_SECONDS", 0)
  with (
    pytest.raises(UserError, match=r"cannot be written \(No space left"),
    open_log(tmp_path) as log,
  ):
    log.write(1, {"loss": 1.0})
    (path,) = tmp_path.glob(file)
    handle = log._files._lines if path.suffix == ".jsonl" else log._files._events._writer
    with open("/dev/full", "wb") as full:
      os.dup2(full.fileno(), handle.fileno())
    log.write(2, {"loss": 1.0})
  gc.collect()
  out, err = capfd.readouterr()
  assert "Traceback" not in out + err
  assert "Exception" not in out + err


def test_a_folder_of_the_run_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "tensorboard").write_text("a file")
  with pytest.raises(UserError, match=r"tensorboard cannot be written \(File exists"):
    open_log(tmp_path).__enter__()


# Speed


def test_images_per_second_leave_out_the_first_step_and_activities(tmp_path, clock):
  with open_log(tmp_path, images_per_step=32) as log:
    clock[0] += 60  # compilation
    log.advance(1)
    clock[0] += 2
    with log.activity("evaluation"):
      clock[0] += 30
    clock[0] += 3
    log.train(11, {"loss": 1.0})
    clock[0] += 4
    log.train(31, {"loss": 1.0})
  assert [x["images_per_second"] for x in lines(tmp_path)] == [10 * 32 / 5, 20 * 32 / 4]


# TensorBoard


def test_scalars_are_mirrored_to_tensorboard(tmp_path):
  with open_log(tmp_path) as log:
    log.write(4, {"loss": 0.5, "name": "not a scalar"})
    log.write(5, {"loss": 0.25})
  values = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
  assert values == [(4, "loss", 0.5), (5, "loss", 0.25)]


def test_tensorboard_needs_no_torch_and_hides_it_from_nobody(tmp_path):
  pytest.importorskip("torch")
  program = f"""
import sys
from train.run.metric_files import MetricFiles
MetricFiles({str(tmp_path)!r}, 0).close()
assert "torch" not in sys.modules
import torch, google.cloud.storage
"""
  subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_resuming_tells_tensorboard_to_drop_later_steps(tmp_path):
  with open_log(tmp_path, start_step=20) as log:
    log.write(21, {"loss": 1.0})
  starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
  assert starts == [21]


# Terminal


def test_without_a_terminal_a_plain_line_comes_every_ten_seconds_and_at_the_end(
  tmp_path, clock, capsys
):
  with open_log(tmp_path, images_per_step=32) as log:
    for step in range(1, 26):
      log.advance(step)
      if step % 4 == 0:
        log.train(step, {"loss": 1 / step})
      clock[0] += 1
  out = capsys.readouterr().out.splitlines()
  assert [line.split("  ")[0] for line in out] == [f"step {n}/100" for n in (1, 11, 21, 25)]
  assert out[2] == "step 21/100  loss 0.0500  32 img/s  ETA 0:01:19"


def test_on_a_terminal_one_line_is_rewritten(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "100")
  with open_log(tmp_path) as log:
    log.train(50, {"loss": 0.125})
    log.message("saved")
  out = capsys.readouterr().out
  assert "step 50/100  loss 0.1250" in out
  assert out.index("saved") < out.rindex("step 50/100")


def test_an_activity_is_shown_while_it_lasts(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("FORCE_COLOR", "1")
  with open_log(tmp_path) as log:
    with log.activity("evaluation"):
      log._progress.refresh()
      assert "(evaluation)" in capsys.readouterr().out
    log._progress.refresh()
    assert "(evaluation)" not in capsys.readouterr().out.splitlines()[-1]


def test_the_summary_keeps_paths_and_commands_whole(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("COLUMNS", "40")
  path, command = "/runs/" + "x" * 60, "python -m train.evaluate [run] " + "y" * 60
  with open_log(tmp_path) as log:
    log.summary([("top-1", "97.5 %"), ("checkpoints", path)], [command])
  out = capsys.readouterr().out.splitlines()
  assert "top-1        97.5 %" in out
  assert f"checkpoints  {path}" in out
  assert f"  {command}" in out[out.index("Next:") :]


def test_the_files_are_closed_when_a_run_fails(tmp_path):
  with pytest.raises(KeyboardInterrupt), open_log(tmp_path) as log:
    log.write(1, {"loss": 1.0})
    raise KeyboardInterrupt
  assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]
  assert any(event.summary.value for event in events(tmp_path))
