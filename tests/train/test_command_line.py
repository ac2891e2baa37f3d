"""The commands as a user gives them; in this process where that is the same and far cheaper."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from pst_jax.errors import run_command
from train import __main__ as train_command
from train import loop
from train.config import Config, DataConfig, ModelConfig, load_file
from train.config_values import flatten
from train.setup import make_setup

REPOSITORY = pathlib.Path(__file__).parents[2]
TINY = """configs/synthetic.py --model.name resnet18_pst --model.stem small --model.width 0.125
  --data.image-size 16 --data.synthetic-examples 64 --data.synthetic-classes 4 --batch-size 16
  --eval-top-k 0 2 --data.threads 1"""


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
  monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def error_of(capsys):
  """Runs a command that must fail as a user's mistake does; returns its one line of error."""

  def run(main, command):
    with pytest.raises(SystemExit) as exit:
      run_command(main, shlex.split(command))
    err = capsys.readouterr().err
    assert exit.value.code == 2
    assert (err[:7], err.count("\n")) == ("error: ", 1)
    return err

  return run


def by_options(case):
  return case if isinstance(case, str) and case.startswith("--") else ""


# Mistakes in options


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ("--epochs 0", "epochs is 0.0, but it must be a number from 1e-06 to 1e\\+06"),
    ("--optim.learning-rate nan", "optim.learning_rate is nan"),
    ("--seed -1", "seed is -1, but it must be a number from 0"),
    ("--model.name resnet18pst", "'resnet18pst' is unknown: did you mean resnet18_pst"),
    ("--model.name nothing", "model 'nothing' is unknown: .* r18-cls-pst, .* resnet18_pst"),
    ("--model.width 0", "model.width is 0.0, but it must be a number from 0.001 to 1000"),
    ("--model.dropout 1", "dropout=1.0 was given, but it must be a number from 0 to below 1"),
    ("--model.top-k 5", "top_k=5 coarse tokens .* 2x2 has 4: choose top_k between 0 and 4"),
    ("--model.top-k -1", "top_k=-1 was given, but it must be a whole number from 0"),
    ("--eval-top-k 0 5", r"top_k=5 .* has 4: .* \(images are 16x16\)"),
    ("--eval-top-k", r"eval_top_k is \(\), but it must be one or more of a whole number from 0"),
    ("--data.image-size 7", "images of 7x7 pixels are too small .* give at least 8x8"),
    ("--batch-size 12", "batch_size is 12, which 8 devices do not divide: choose a multiple of 8"),
    ("--batch-size 72", "batch_size is 72, but there are 64 training examples"),
    ("--model.batch-norm-group-size 5", "is 16, which BatchNorm groups of 5 .* do not divide"),
    ("--model.batch-norm-group-size 0", "group_size=0 was given, but it must be a whole number"),
    (
      "--profile-steps 10",
      "profile_steps is '10', but it must be empty, or the first and the last",
    ),
    ("--profile-steps 350:361", "is 350:361, but the run ends with step 4: choose"),
    (
      "--epochs 1e6 --data.synthetic-examples 100000",
      "epochs is 1000000.0, which is .* steps with these data, but the number of steps must be",
    ),
    ("--fsdp 3", "fsdp=3 does not divide the 8 devices: choose a divisor of 8"),
    ("--model.dtype float64", "model.dtype is float64, which needs JAX_ENABLE_X64=1"),
    ("--data.dataset nothing", r"dataset nothing is not in .*: point --data.data-dir \(.*\) at"),
  ],
  ids=by_options,
)
def test_a_mistake_is_one_sentence_before_anything_is_made(error_of, tmp_path, options, message):
  error = error_of(train_command.main, f"{TINY} {options} --run-dir {tmp_path}/run")
  assert re.search(message, error), error
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("configs/nothing.py", "configs/nothing.py was not found: .*configs/.*/digits.py"),
    ("--epochs 3", "config file --epochs was not found: give a path such as configs/"),
    ("configs", "config file configs was not found"),
    ("README.md", "config file README.md"),
    ("train/config.py", "train/config.py does not assign `config"),
  ],
)
def test_a_first_argument_that_is_no_config_file_is_refused(error_of, arguments, message):
  assert re.search(message, error_of(train_command.main, arguments))


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ("--model.dropuot 0.1", ["--model.dropuot", "Perhaps you meant", "--model.dropout FLOAT"]),
    ("--learning-rate 0.1", ["--learning-rate", "Perhaps you meant", "--optim.learning-rate"]),
    ("--optim.lr 0.1", ["--optim.lr", "python -m train configs/digits.py --help"]),
    ("--batch-size many", ["--batch-size", "'many'", "Examples of a step, over all devices."]),
    ("--batch-size 1.5", ["--batch-size", "'1.5'"]),
    ("--epochs", ["Missing value", "--epochs"]),
    ("--model.stem large", ["'large'", "--model.stem", "('imagenet', 'small')"]),
    ("--data.mean 0.5 0.5", ["--data.mean", "Expected 3 values"]),
  ],
  ids=by_options,
)
def test_an_option_that_cannot_be_read_is_named_with_what_exists(capsys, options, words):
  with pytest.raises(SystemExit) as exit:
    run_command(train_command.main, ["configs/digits.py", *options.split()])
  out, err = capsys.readouterr()
  assert exit.value.code == 2
  text = plain(err)
  assert [word for word in words if word not in text] == []
  assert out == ""
  assert err.count("\n") < 15


def plain(text):
  """The text without the lines that a box of tyro's is drawn with."""
  return " ".join(re.sub(r"[─-╿]", " ", text).split())


def test_a_width_between_the_possible_ones_is_rounded():
  config = Config(
    batch_size=8,
    eval_top_k=(0,),
    model=ModelConfig(width=0.3, stem="small"),
    data=DataConfig(image_size=16),
  )
  params = make_setup(config, 4, 64).abstract_state.params
  assert params["neck"]["pst"]["cv1"]["conv"]["kernel"].shape[-1] % 32 == 0


# Mistakes in the data


@pytest.fixture
def digits(digits_dir, tmp_path, monkeypatch):
  """A copy of the digits that may be spoilt, and the command that trains on it."""
  folder = shutil.copytree(digits_dir, tmp_path / "data") / "digits" / "1.0.0"

  # The first batch is read before the first step: the state, which takes time to compile, is
  # never looked at.
  def without_state(*arguments):
    return dataclasses.replace(make_setup(*arguments), initial_state=lambda **_: None)

  monkeypatch.setattr(loop, "make_setup", without_state)
  command = f"{TINY} --data.dataset digits --data.data-dir {tmp_path}/data --data.eval-split test"
  return folder, f"{command} --run-dir {tmp_path}/run"


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("train[:0]", r"split train\[:0\] of dataset digits is empty: name another"),
    ("training", "dataset digits has no split training: name one of"),
  ],
)
def test_a_split_without_examples_is_refused(error_of, digits, split, message):
  error = error_of(train_command.main, f"{digits[1]} --data.train-split {split}")
  assert re.search(message, error), error


def test_labels_out_of_range_are_refused(error_of, digits):
  folder, command = digits
  features = folder / "features.json"
  features.write_text(features.read_text().replace('"numClasses": "10"', '"numClasses": "5"'))
  (folder / "label.labels.txt").write_text("".join(f"{name}\n" for name in range(5)))
  error = error_of(train_command.main, command)
  assert re.search(r"record \d+ of split train .* has the label \d, but .* 5 classes", error), error


def test_a_damaged_record_is_named(error_of, digits):
  folder, command = digits
  (file,) = folder.glob("*train.array_record*")
  content = bytearray(file.read_bytes())
  for image in re.finditer(b"PNG", content):
    content[image.start() + 10] ^= 0xFF
  file.write_bytes(content)
  error = error_of(train_command.main, command)
  assert re.search(r"record \d+ of split train of dataset digits cannot be read", error), error


# Help


def test_help_of_the_trainer_lists_the_configs(capsys):
  train_command.main(["--help"])
  text = capsys.readouterr().out
  assert "usage: python -m train CONFIG" in text
  for path in pathlib.Path("configs").glob("*.py"):
    title = path.read_text().splitlines()[0].removeprefix('"""')
    assert re.search(rf"  {path} +{re.escape(title)}\n", text)


def test_no_argument_at_all_gives_help(capsys):
  train_command.main([])
  assert "usage: python -m train CONFIG" in capsys.readouterr().out


@pytest.fixture
def digits_help(capsys):
  with pytest.raises(SystemExit) as exit:
    train_command.main(["configs/digits.py", "--help"])
  assert exit.value.code == 0
  return plain(capsys.readouterr().out)


def test_help_of_a_config_explains_every_option(digits_help):
  for name in flatten(Config()):
    option = f"--{name.replace('_', '-')}"
    explained = re.search(rf"{option}[ ,](.*?)\(default:", digits_help)
    assert explained, option
    words = re.sub(r"\{.*?\}|--\S+", "", explained[1])
    assert len(re.findall(r"\b[a-z]{2,}", words)) >= 3, explained[0]


@pytest.mark.parametrize("option", ["epochs", "run_dir", "batch_size", "model.width"])
def test_help_of_a_config_shows_its_values(digits_help, option):
  value = flatten(load_file("configs/digits.py"))[option]
  assert value != flatten(Config())[option]
  shown = re.search(rf"--{option.replace('_', '-')} .*?\(default: (.*?)\)", digits_help)
  assert shown[1] == str(value)


def test_help_is_there_before_jax_is():
  code = """
import sys
from train.__main__ import main as train
from train.evaluate import main as evaluate
for main, arguments in [(train, "--help"), (train, "configs/digits.py -h"), (evaluate, "-h")]:
  try:
    main(arguments.split())
  except SystemExit as exit:
    assert not exit.code
  assert "jax" not in sys.modules and "tensorflow_datasets" not in sys.modules
"""
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
  assert result.returncode == 0, result.stderr
  assert result.stdout.count("usage: python -m train") == 3


# How commands end


def test_a_mistake_ends_a_real_process_without_a_traceback():
  result = subprocess.run(
    [sys.executable, "-m", "train", "nothing"], capture_output=True, text=True, timeout=60
  )
  assert (result.returncode, result.stdout) == (2, "")
  assert re.fullmatch("error: config file nothing was not found: .*\n", result.stderr)


def test_an_interrupted_command_says_how_to_go_on(capsys):
  def main(arguments):
    raise KeyboardInterrupt

  with pytest.raises(SystemExit) as exit:
    run_command(main, [])
  assert exit.value.code == 130
  assert capsys.readouterr().err == "stopped; give the same command again to go on\n"


def test_a_fault_of_the_program_keeps_its_traceback():
  def main(arguments):
    raise ValueError

  with pytest.raises(ValueError):
    run_command(main, [])
