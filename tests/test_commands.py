import argparse
import os
import pathlib
import subprocess
import sys

import pytest

import pst_jax
from pst_jax import __main__ as command_line
from pst_jax.commands.models import NOTES


def run(capsys, *arguments):
  code = command_line.main(list(arguments))
  out, err = capsys.readouterr()
  return code, out, err


def exits(capsys, *arguments):
  """For what argparse answers itself."""
  with pytest.raises(SystemExit) as stop:
    command_line.main(list(arguments))
  out, err = capsys.readouterr()
  return stop.value.code, out, err


def command_that_raises(monkeypatch, error):
  def fail(options):
    raise error

  entry = ("fails", lambda parser: None, fail)
  monkeypatch.setitem(command_line.COMMANDS, "fail", entry)


def test_models_lists_names_parameters_gflops_and_what_each_is(capsys):
  code, out, err = run(capsys, "models", "resnet18*")
  lines = out.splitlines()
  assert (code, err) == (0, "")
  assert lines[0].split()[:3] == ["name", "parameters", "GFLOPs"]
  assert lines[1].split()[:3] == ["resnet18", "11,689,512", "3.63"]
  assert lines[2].split()[:3] == ["resnet18_pst", "14,471,368", "3.89"]
  assert lines[1].endswith("torchvision's ResNet-18")
  assert "2 x the multiply-adds" in out


def test_every_network_has_a_note():
  assert list(NOTES) == pst_jax.list_models()


@pytest.mark.slow
def test_models_lists_all_of_them(capsys):
  _, out, _ = run(capsys, "models")
  assert [line.split()[0] for line in out.splitlines()[1:-3]] == pst_jax.list_models()


def test_models_counts_for_the_image_and_top_k_that_are_asked_for(capsys):
  _, out, _ = run(capsys, "models", "resnet18_pst", "--image-size", "64", "--top-k", "4")
  model = pst_jax.create_model("resnet18_pst", top_k=4)
  gflops = pst_jax.summarize(model, 64).flops / 1e9
  assert out.splitlines()[1].split()[2] == f"{gflops:.2f}"
  assert "64x64, top_k 4" in out


def test_summary_shows_a_network_module_by_module_and_no_list(capsys):
  code, out, _ = run(capsys, "models", "--summary", "resnet18_pst", "--depth", "1")
  names = [line.split()[0] for line in out.splitlines()[2:-1]]
  assert code == 0
  assert names == ["module", "all", "backbone", "neck", "head"]


def test_a_pattern_and_a_summary_give_both(capsys):
  _, out, _ = run(capsys, "models", "resnet18", "--summary", "resnet18_pst", "--depth", "0")
  assert out.startswith("name")
  assert "resnet18_pst: " in out


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["models", "vgg*"], "no network matches 'vgg*': give a pattern such as '*pst*'"),
    (["models", "--summary", "resnet19"], "'resnet19' is unknown: did you mean resnet1"),
    (["models", "resnet18", "--image-size", "20"], "20x20 pixels are too small"),
    (["models", "resnet18_pst", "--top-k", "50"], "top_k=50 coarse tokens"),
    (["models", "resnet18_pst", "--top-k", "-1"], "top_k=-1 was given"),
  ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(capsys, arguments, words):
  code, out, err = run(capsys, *arguments)
  assert (code, out) == (2, "")
  assert err.startswith("error: ")
  assert words in err
  assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("too wide"), FileNotFoundError("no such run")])
def test_an_error_of_the_library_is_told_without_a_traceback(capsys, monkeypatch, error):
  command_that_raises(monkeypatch, error)
  assert run(capsys, "fail") == (2, "", f"error: {error}\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
  command_that_raises(monkeypatch, KeyError("params"))
  with pytest.raises(KeyError):
    command_line.main(["fail"])


def test_control_c_exits_with_130_and_without_a_traceback(capsys, monkeypatch):
  command_that_raises(monkeypatch, KeyboardInterrupt())
  assert run(capsys, "fail") == (130, "", "")


def test_help_says_what_every_command_does(capsys):
  code, out, _ = exits(capsys, "--help")
  assert code == 0
  for name, (summary, _, _) in command_line.COMMANDS.items():
    assert f"{name}  " in out
    assert summary in out


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_option_of_a_command_has_a_help_text(name):
  parser = argparse.ArgumentParser()
  _, add_arguments, _ = command_line.COMMANDS[name]
  add_arguments(parser)
  assert parser.description
  assert [action.dest for action in parser._actions if not action.help] == []


def test_no_command_is_a_mistake(capsys):
  code, _, err = exits(capsys)
  assert code == 2
  assert "COMMAND" in err


def test_a_reader_that_stops_early_is_no_error():
  # `head -1` of the real program: Python itself complains at exit if the pipe is not handled.
  process = subprocess.Popen(
    [sys.executable, "-m", "pst_jax", "models", "resnet18*"],
    cwd=pathlib.Path(pst_jax.__file__).parents[1],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with process:
    first = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
  assert first.startswith("name")
  assert (process.returncode, errors) == (0, "")
