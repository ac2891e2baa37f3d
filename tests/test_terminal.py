"""What a command puts in place for its time, and what stays."""

import sys

from pst_jax import terminal


def test_a_hook_that_was_set_meanwhile_stays(monkeypatch):
  # The reader of checkpoints keeps the terminal quiet up to the end of the process.
  monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

  def later(unraisable):
    pass

  with terminal.command_line():
    sys.unraisablehook = later
  assert sys.unraisablehook is later


def test_its_own_hook_does_not_stay(monkeypatch):
  monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
  with terminal.command_line():
    assert sys.unraisablehook is not sys.__unraisablehook__
  assert sys.unraisablehook is sys.__unraisablehook__
