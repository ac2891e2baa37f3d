"""python -m pst_jax convert and inspect: every way, and every mistake in one sentence."""

import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from support import tiny_weights
from support.pytorch import torch, twins

from pst_jax.__main__ import main
from pst_jax.convert import read_weights, write_safetensors, write_torch_file, write_weights

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
  return tiny_weights.save_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture
def file(tmp_path):
  write_weights(tmp_path / "w.safetensors", tiny_weights.weights(step=4))
  return tmp_path / "w.safetensors"


def convert(*arguments):
  return main(["convert", *map(str, arguments)])


def start_plus(number):
  return tiny_weights.shifted(tiny_weights.weights().variables, number)


@pytest.mark.parametrize(
  ("options", "number"),
  [
    ([], 30),
    (["--weights", "ema"], 30),
    (["--weights", "params"], 3),
    (["--step", "best"], 20),
    (["--step", "1", "--weights", "params"], 1),
    (["--step", "latest"], 30),
  ],
  ids=str,
)
def test_the_step_and_the_weights_asked_for_are_taken(run_folder, tmp_path, options, number):
  assert convert(run_folder, tmp_path / "w.safetensors", *options) == 0
  weights = read_weights(tmp_path / "w.safetensors")
  assert tiny_weights.same(
    tiny_weights.leaves(weights.variables), tiny_weights.leaves(start_plus(number))
  )


def test_what_a_run_knows_travels_in_the_file(run_folder, tmp_path):
  convert(run_folder, tmp_path / "w.pt", "--step", "2")
  metadata = read_weights(tmp_path / "w.pt").metadata
  expected = tiny_weights.weights(
    source="mine",
    weights="ema",
    step=2,
    top_k=2,
    class_names=("a", "b", "c"),
    num_batches_tracked=2,
  ).metadata
  assert metadata == expected


def test_every_form_gives_back_the_same_weights(run_folder, tmp_path):
  forms = [run_folder, *(tmp_path / name for name in ("a.safetensors", "b.pt", "c", "d.pth"))]
  for source, dest in itertools.pairwise(forms):
    assert convert(source, dest) == 0
  first, last = read_weights(forms[1]), read_weights(forms[-1])
  assert tiny_weights.same(first.state_dict(), last.state_dict())
  assert first.metadata == last.metadata == read_weights(tmp_path / "c").metadata


def test_the_report_counts_the_entries(file, tmp_path, capsys):
  convert(file, tmp_path / "w.pt")
  report = capsys.readouterr().out
  assert "resnet18_pst, 3 classes, stem small, width 0.125, step 4, parameters" in report
  assert "196 matched (32 of them counters), none missing, none left over" in report
  assert "read back: every entry equal to the bit" in report


def test_verify_runs_both_networks_coarse_and_fine(file, tmp_path, capsys):
  # At 16 pixels there are 4 coarse tokens.
  assert convert(file, tmp_path / "w.pt", "--verify") == 0
  report = capsys.readouterr().out
  assert report.count("max |Flax - PyTorch|") == 2
  assert "top_k 0: " in report and "top_k 4: " in report


def test_a_difference_between_the_networks_stops_the_conversion(
  file, tmp_path, capsys, monkeypatch
):
  create = twins.create_model

  def other_network(*arguments, **options):
    network = create(*arguments, **options)
    network.register_forward_hook(lambda _, __, logits: logits + 1e-3)
    return network

  monkeypatch.setattr("pst_jax.torch.create_model", other_network)
  assert convert(file, tmp_path / "w.pt", "--verify") == 2
  assert "the two networks differ (top_k 0: max" in capsys.readouterr().err
  assert not (tmp_path / "w.pt").exists()


def test_a_folder_that_exists_is_kept_unless_forced(file, tmp_path, capsys):
  for _ in range(2):
    code = convert(file, tmp_path / "folder")
  assert code == 2
  assert "this folder exists and is kept" in capsys.readouterr().err
  write_weights(file, tiny_weights.weights(step=5), force=True)
  assert convert(file, tmp_path / "folder", "--force") == 0
  assert read_weights(tmp_path / "folder").metadata.step == 5
  assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "w.safetensors"]


def test_a_folder_of_something_else_is_never_replaced(file, run_folder, tmp_path, capsys):
  assert convert(file, run_folder, "--force") == 2
  assert "is no folder of weights that could be replaced" in capsys.readouterr().err
  assert (run_folder / "config.json").exists()


def test_a_file_can_be_converted_in_place(file):
  assert convert(file, file, "--force") == 0
  assert read_weights(file).metadata.step == 4


def test_a_failed_write_of_a_folder_leaves_nothing(file, tmp_path, capsys, monkeypatch):
  from pst_jax.checkpoints import write
  from pst_jax.errors import UserError

  def fail(*arguments, **options):
    raise UserError("the disk is full")

  monkeypatch.setattr(write, "write_step", fail)
  assert convert(file, tmp_path / "folder") == 2
  assert "nothing was written: the disk is full" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def nothing(path):
  pass


def directory(path):
  path.mkdir()


def text(path):
  path.write_text("not weights\n" * 100)


def picture(path):
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def empty(path):
  path.write_bytes(b"")


def not_a_number(path):
  entries = tiny_weights.state_dict()
  entries["conv1.weight"][0, 0, 0, 0] = np.nan
  write_torch_file(path, entries, {})


def part(path):
  write_torch_file(path, {"model.21.dfl.conv.weight": np.ones((1, 16, 1, 1))}, {})


def truncated(path):
  write_torch_file(path, tiny_weights.state_dict(), {})
  path.write_bytes(path.read_bytes()[:-1000])


def good(path):
  write_torch_file(path, tiny_weights.state_dict(), {})


MISTAKES = [
  (nothing, [], "there is no such file"),
  (directory, [], "this folder holds no weights"),
  (text, [], "this is no PyTorch file"),
  (picture, [], "this is no PyTorch file"),
  (empty, [], "this file is empty"),
  (truncated, [], "damaged or cut short"),
  (not_a_number, [], "1 of 164 entries hold NaN or infinity (conv1.weight)"),
  (part, [], "none of them is the bias of a last layer"),
  (good, ["--model", "resnet34_pst"], "its entries are not those of resnet34_pst"),
  (good, ["--model", "resnet"], "model 'resnet' is unknown"),
  (good, ["--step", "3"], "a file holds one step: leave --step out"),
  (good, ["--step", "newest"], "--step is 'newest', but it must be latest, best or the number"),
  (good, ["--weights", "ema"], "it holds one set of weights and no moving average"),
]


@pytest.mark.parametrize(
  ("make", "options", "message"), MISTAKES, ids=lambda v: getattr(v, "__name__", None)
)
@pytest.mark.parametrize("dest", ["out.safetensors", "out.pt", "out"])
def test_a_mistake_is_one_sentence_and_leaves_nothing(
  tmp_path, capsys, make, options, message, dest
):
  make(tmp_path / "source")
  before = sorted(tmp_path.rglob("*"))
  assert convert(tmp_path / "source", tmp_path / dest, *options) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and message in error and error.count("\n") == 1
  assert sorted(tmp_path.rglob("*")) == before


RUN_MISTAKES = [
  (["--step", "7"], "There is no checkpoint of step 7"),
  (["--model", "resnet34_pst"], "it holds weights of resnet18_pst, not of resnet34_pst"),
]


@pytest.mark.parametrize(("options", "message"), RUN_MISTAKES)
def test_a_mistake_about_a_run_is_one_sentence(run_folder, tmp_path, capsys, options, message):
  assert convert(run_folder, tmp_path / "w.pt", *options) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_a_run_without_a_moving_average_says_so(tmp_path, capsys):
  run = tiny_weights.save_run(tmp_path / "run", top1=(0.5,), keep_ema=False, class_names=None)
  assert convert(run, tmp_path / "w.pt", "--weights", "ema") == 2
  assert "this run keeps no moving average" in capsys.readouterr().err
  assert convert(run, tmp_path / "w.pt") == 0
  assert read_weights(tmp_path / "w.pt").metadata.weights == "params"


@pytest.mark.parametrize("dest", ["no/out.pt", "no/out", "out.onnx", "taken.pt"])
def test_a_place_that_cannot_be_written_is_found_before_reading(tmp_path, capsys, dest):
  (tmp_path / "taken.pt").mkdir()
  assert convert(tmp_path / "missing_source", tmp_path / dest) == 2
  assert "missing_source" not in capsys.readouterr().err


def test_without_orbax_a_folder_says_what_to_install(file, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
  for package, module in (("checkpoints", "read"), ("convert.formats", "orbax_folder")):
    monkeypatch.delitem(sys.modules, f"pst_jax.{package}.{module}", raising=False)
    monkeypatch.delattr(sys.modules[f"pst_jax.{package}"], module, raising=False)
  assert convert(file, tmp_path / "folder") == 2
  assert "pip install 'orbax-checkpoint" in capsys.readouterr().err


def test_without_pytorch_verify_and_pt_name_the_extra(file, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  monkeypatch.delitem(sys.modules, "pst_jax.torch", raising=False)
  monkeypatch.delattr("pst_jax.torch", raising=False)
  for arguments in (["w.pt"], ["v.safetensors", "--verify"]):
    assert convert(file, tmp_path / arguments[0], *arguments[1:]) == 2
    assert "pip install 'torch" in capsys.readouterr().err


def test_inspect_shows_a_file_of_this_project(file, capsys):
  assert main(["inspect", str(file)]) == 0
  shown = capsys.readouterr().out
  assert "resnet18_pst, 3 classes, stem small, width 0.125, step 4" in shown
  assert "mean [0.1, 0.2, 0.3]" in shown and "jax " in shown


def test_inspect_shows_a_checkpoint_of_others(tmp_path, capsys):
  model = twins.create_model(tiny_weights.MODEL, **tiny_weights.OPTIONS).half()
  model.names = {0: "ant", 1: "bee\x1b[2J", 2: "cat"}
  checkpoint = {"epoch": 3, "model": model, "train_args": {"imgsz": 224, "epochs": 200}}
  torch.save(checkpoint, tmp_path / "last.pt")
  assert main(["inspect", str(tmp_path / "last.pt")]) == 0
  shown = capsys.readouterr().out
  for text in (
    "PyTorch zip, pickled",
    "164 float16, 32 int64",
    "imgsz 224",
    "ant, bee\\x1b[2J, cat",
  ):
    assert text in shown


def test_inspect_names_what_is_not_finite(tmp_path, capsys):
  not_a_number(tmp_path / "w.pt")
  assert main(["inspect", str(tmp_path / "w.pt")]) == 0
  assert "NaN or infinity in 1: conv1.weight" in capsys.readouterr().out


def test_inspect_shows_what_it_does_not_recognise(tmp_path, capsys):
  write_safetensors(tmp_path / "w.safetensors", {"fc.bias": np.ones(3)}, {})
  assert main(["inspect", str(tmp_path / "w.safetensors")]) == 0
  assert "not recognised: no network has exactly these 1 entries" in capsys.readouterr().out


def test_inspect_shows_a_run(run_folder, capsys):
  assert main(["inspect", str(run_folder)]) == 0
  assert "step 3, moving average" in capsys.readouterr().out


def test_the_commands_work_from_the_shell(tmp_path):
  command = [sys.executable, "-m", "pst_jax", "convert", tmp_path / "none.pt", tmp_path / "w.pt"]
  done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stderr == f"error: {tmp_path}/none.pt: there is no such file; check the path\n"
