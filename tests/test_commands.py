import argparse
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

import pst_jax
from pst_jax import __main__ as command_line
from pst_jax.commands.models import NOTES, stored_costs
from pst_jax.errors import UserError

REPOSITORY = pathlib.Path(pst_jax.__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tools"))
import model_costs  # noqa: E402


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

  command = types.SimpleNamespace(DESCRIPTION="", add_arguments=lambda parser: None, run=fail)
  monkeypatch.setitem(command_line.COMMANDS, "fail", "fails")
  monkeypatch.setitem(sys.modules, "pst_jax.commands.fail", command)


def test_models_lists_names_parameters_gflops_and_what_each_is(capsys):
  code, out, err = run(capsys, "models", "resnet18*")
  lines = out.splitlines()
  assert (code, err) == (0, "")
  assert lines[0].split()[:3] == ["name", "parameters", "GFLOPs"]
  assert lines[1].split()[:3] == ["resnet18", "11,689,512", "3.63"]
  assert lines[2].split()[:3] == ["resnet18_pst", "14,471,368", "3.89"]
  assert lines[1].endswith("torchvision's ResNet-18")
  assert "2 x the multiply-adds" in out


def test_every_network_has_a_note_and_a_row_in_the_table():
  assert list(NOTES) == pst_jax.list_models()
  assert list(stored_costs()) == pst_jax.list_models()


@pytest.mark.parametrize("name", pst_jax.list_models())
def test_the_stored_costs_are_what_is_counted(name):
  assert stored_costs()[name] == model_costs.costs(name), (
    "run `python tools/model_costs.py`, which writes the table"
  )


def test_models_lists_all_of_them(capsys):
  _, out, _ = run(capsys, "models")
  assert [line.split()[0] for line in out.splitlines()[1:-4]] == pst_jax.list_models()


def test_models_counts_for_the_image_and_top_k_that_are_asked_for(capsys):
  _, out, _ = run(capsys, "models", "resnet18_pst", "--image-size", "64", "--top-k", "4")
  model = pst_jax.create_model("resnet18_pst", top_k=4)
  gflops = pst_jax.summarize(model, 64).flops / 1e9
  assert out.splitlines()[1].split()[2:4] == [f"{gflops:.2f}", "64"]
  assert "top_k 4" in out


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


@pytest.mark.parametrize(
  ("error", "text"),
  [
    (UserError("too wide"), "too wide"),
    (FileNotFoundError(2, "No such file or directory", "a"), "a: No such file or directory; check"),
  ],
)
def test_a_users_mistake_is_told_without_a_traceback(capsys, monkeypatch, error, text):
  command_that_raises(monkeypatch, error)
  code, out, err = run(capsys, "fail")
  assert (code, out, err.count("\n")) == (2, "", 1)
  assert err.startswith(f"error: {text}")


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
  for name, summary in command_line.COMMANDS.items():
    assert f"{name}  " in out
    assert summary in out


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_option_of_a_command_has_a_help_text(name):
  command, parser = importlib.import_module(f"pst_jax.commands.{name}"), argparse.ArgumentParser()
  command.add_arguments(parser)
  assert command.DESCRIPTION
  assert [action.dest for action in parser._actions if not action.help] == []


def test_no_command_is_a_mistake(capsys):
  code, _, err = exits(capsys)
  assert code == 2
  assert "COMMAND" in err


def test_the_version_is_that_of_the_package(capsys):
  assert exits(capsys, "--version") == (0, f"pst_jax {pst_jax.__version__}\n", "")


# The real program.


def start(*arguments, code=None, **options):
  """`python -m pst_jax`, or a text of Python, in a process of its own."""
  what = ["-m", "pst_jax"] if code is None else ["-c", code]
  return subprocess.Popen(
    [sys.executable, *what, *arguments],
    cwd=REPOSITORY,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever started the tests
    stderr=subprocess.PIPE,
    text=True,
    **{"env": os.environ | {"JAX_PLATFORMS": "cpu"}, "stdout": subprocess.PIPE} | options,
  )


def test_a_reader_that_stops_early_is_no_error():
  # `head -1`: Python itself complains at exit if the pipe is not handled.
  with start("models", "--summary", "resnet18") as process:
    first = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
  assert first.startswith("resnet18: ")
  assert (process.returncode, errors) == (0, "")


def test_a_closed_standard_output_is_no_error():
  closed = f"exec {sys.executable} -m pst_jax models >&-"
  code = f"import os; os.execvp('sh', ['sh', '-c', {closed!r}])"
  with start(code=code) as process:
    errors = process.stderr.read()
  assert (process.returncode, errors) == (0, "")


def test_a_full_disk_behind_the_standard_output_is_one_line():
  with open("/dev/full", "w") as full, start("models", stdout=full) as process:
    errors = process.stderr.read()
  assert process.returncode == 2
  assert errors.startswith("error: ") and "No space left" in errors and errors.count("\n") == 1


def test_what_is_printed_comes_at_once_where_python_is_told_so():
  code = """
import os
from pst_jax import terminal
with terminal.command_line():
  print(7)
  os._exit(0)
"""
  environment = os.environ | {"PYTHONUNBUFFERED": "1"}
  with start(code=code, env=environment) as process:
    assert process.stdout.read() == "7\n"


def test_a_character_that_the_terminal_lacks_is_no_error():
  environment = os.environ | {"PYTHONIOENCODING": "ascii"}
  code = "from pst_jax import terminal\nwith terminal.command_line():\n  print('gr\u00fcn')"
  with start(code=code, env=environment) as process:
    assert process.stdout.read() == "gr\\xfcn\n"


@pytest.mark.parametrize(
  "moment",
  [
    "os.kill(os.getpid(), signal.SIGINT)",
    # Python drops an exception that comes inside a callback, and imports have many.
    "C = type('C', (), {'__del__': lambda self: os.kill(os.getpid(), signal.SIGINT)}); C()",
  ],
)
def test_control_c_while_jax_is_imported_ends_the_command_without_a_traceback(tmp_path, moment):
  (tmp_path / "jax.py").write_text(f"import os, signal, time\n{moment}\ntime.sleep(60)\n")
  environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
  code = "import sys; sys.path.append('.'); from pst_jax.__main__ import entry; entry()"
  with start("models", "--summary", "resnet18", code=code, env=environment) as process:
    out, errors = process.stdout.read(), process.stderr.read()
  assert (process.returncode, out, errors) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize(
  "arguments",
  [["--help"], ["models"], *([name, "--help"] for name in command_line.COMMANDS)],
  ids=" ".join,
)
def test_help_and_the_list_of_networks_load_neither_jax_nor_numpy(arguments):
  code = """
import atexit, sys
from pst_jax.__main__ import entry
atexit.register(lambda: print({"jax", "flax", "numpy", "torch"} & set(sys.modules)))
entry()
"""
  with start(*arguments, code=code) as process:
    out = process.stdout.read()
  assert out.splitlines()[-1] == "set()"


@pytest.mark.parametrize("module", ["train", "train.evaluate", "train.prepare", "train.plan"])
def test_help_of_the_trainer_does_not_load_jax(module):
  code = f"""
import atexit, runpy, sys
atexit.register(lambda: print({{"jax", "flax", "torch"}} & set(sys.modules)))
runpy.run_module("{module}", run_name="__main__", alter_sys=True)
"""
  config = ["configs/digits.py"] if module == "train" else []
  with start(*config, "--help", code=code) as process:
    out = process.stdout.read()
  assert out.splitlines()[-1] == "set()"


def test_what_the_package_exports_is_there():
  for name in pst_jax.__all__:
    assert getattr(pst_jax, name) is not None
  assert set(pst_jax.__all__) <= set(dir(pst_jax))
  with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
    _ = pst_jax.create_modle
