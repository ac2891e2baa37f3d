"""How a command ends: one line for a user's mistake, a traceback for a bug."""

import pytest

from pst_jax.errors import MissingFileError, Stopped, UserError, run_command

ENDS = {
  "mistake": (UserError("too wide: choose less"), 2, "error: too wide: choose less\n"),
  "no such file": (MissingFileError("a: there is no such file"), 2, "error: a: there is no such"),
  "file": (PermissionError(13, "Permission denied", "w.pt"), 2, "error: w.pt: Permission denied;"),
  "full disk": (OSError(28, "No space left on device"), 2, "error: the output: No space left on"),
  "Ctrl-C": (KeyboardInterrupt(), 130, "stopped; give the same command again to go on\n"),
  "SIGTERM": (Stopped("stopped at step 3"), 143, "stopped at step 3\n"),
  "SIGTERM elsewhere": (Stopped(""), 143, ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_is_no_bug_has_a_code_and_at_most_one_line(capsys, end):
  error, code, text = ENDS[end]

  def fail(arguments):
    raise error

  with pytest.raises(SystemExit) as exit:
    run_command(fail, [])
  err = capsys.readouterr().err
  assert exit.value.code == code
  assert err.startswith(text) and err.count("\n") == bool(text)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("params")])
def test_a_bug_keeps_its_traceback(error):
  def fail(arguments):
    raise error

  with pytest.raises(type(error)):
    run_command(fail, [])


def test_a_system_error_without_a_file_keeps_its_traceback(capsys):
  def fail(arguments):
    raise ConnectionResetError(104, "Connection reset by peer")

  with pytest.raises(SystemExit) as exit:
    run_command(fail, [])
  assert exit.value.code == 1
  assert "Traceback" in capsys.readouterr().err


def test_a_command_that_works_returns():
  run_command(lambda arguments: None, [])
