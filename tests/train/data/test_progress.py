import pytest

from train.data.prepare import progress


@pytest.fixture
def clock(monkeypatch):
  """The seconds that progress sees, to be set by the test."""
  seconds = [0.0]
  monkeypatch.setattr(progress, "monotonic", lambda: seconds[0])
  return seconds


def test_the_time_left_follows_from_the_pace_so_far(clock, capsys):
  with progress.Counter("copying", 1000, "files") as counter:
    clock[0] = 60
    counter.advance(100)
  assert "copying: 100/1,000 files, ETA 0:09:00" in capsys.readouterr().out


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock, capsys):
  with progress.Counter("copying", 1000, "files") as counter:
    for _ in range(100):
      clock[0] += 0.25
      counter.advance()
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(",")[0] for line in lines[:-1]] == ["copying: 40/1", "copying: 80/1"]
  assert lines[-1] == "copying: 100 files in 0:00:25"


def test_work_that_fails_is_not_reported_as_done(clock, capsys):
  with pytest.raises(KeyError), progress.Counter("copying", 10, "files"):
    raise KeyError
  assert capsys.readouterr().out == ""
