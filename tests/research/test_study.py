"""The commands of research/ as a user gives them."""

import json

import pytest
from support.quick_jit import STEP_OPTIONS
from support.small_weights import small_file

import pst_jax
from pst_jax.convert import read_weights
from pst_jax.errors import UserError
from research import gate, study


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: STEP_OPTIONS)
  monkeypatch.setattr("pst_jax.inference.cost.compiler_options", lambda: STEP_OPTIONS)


@pytest.fixture
def source(tmp_path):
  return small_file(tmp_path / "weights.safetensors")


DATA = ["--dataset", "synthetic", "--batch-size", "16", "--images", "20"]


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
  """Of the made-up images, as many as the small network tells apart."""
  from train.evaluation import source as evaluation_source

  open_data = evaluation_source.open_data

  def small(weights, config):
    import dataclasses

    data = dataclasses.replace(config.data, synthetic_examples=32, synthetic_classes=3)
    return open_data(weights, dataclasses.replace(config, data=data))

  monkeypatch.setattr(evaluation_source, "open_data", small)


@pytest.mark.slow
def test_a_study_has_a_row_for_every_rule_and_top_k(source, tmp_path, capsys):
  path, plot = tmp_path / "study.json", tmp_path / "study.png"
  rules = ["--top-k", "0", "1", "2", "--selection", "top_k", "oracle", "--rounds", "1"]
  study.main([source, *DATA, *rules, "--json", str(path), "--plot", str(plot)])
  rows = json.loads(path.read_text())["rows"]
  assert [(row["top_k"], row["selection"]) for row in rows] == [
    (0, "top_k"),
    (1, "top_k"),
    (1, "oracle"),
    (2, "top_k"),
    (2, "oracle"),
  ]
  assert rows[2]["recall"] == pytest.approx(1) and rows[1]["overlap"] == pytest.approx(1)
  assert 0 == rows[0]["more_flops"] < rows[1]["more_flops"] < rows[3]["more_flops"]
  assert "recall" not in rows[0] and rows[0]["count"] == 32
  assert plot.read_bytes().startswith(b"\x89PNG")
  assert len(capsys.readouterr().out.splitlines()) == 2 + 1 + 5 + 1  # and the plot's line


def test_gates_are_set_and_written_as_weights(source, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(gate, "ROWS", 500)
  dest = tmp_path / "gated.safetensors"
  gate.main([source, str(dest), *DATA, "--top-k", "2"])
  weights = read_weights(dest)
  assert weights.metadata.top_k == 2
  assert weights.variables["params"]["neck"]["pst"]["block0"]["attn"]["gate_bias"].any()
  assert "mean squared distance" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("command", "options", "complaint"),
  [
    (study, ["--images", "0"], "--images is 0"),
    (study, ["--plot", "plot.txt"], "--plot is plot.txt, but its ending must be .png"),
    (study, ["--top-k", "0"], "nothing is to be studied"),
    (gate, ["new.pt", "--top-k", "1", "2"], "one number from 1 is needed"),
    (gate, ["new.pt", "--top-k", "1", "--selection", "a", "b"], "one rule is needed"),
  ],
)
def test_what_cannot_be_studied_is_told(source, command, options, complaint):
  with pytest.raises(UserError, match=complaint):
    command.main([source, *options, "--dataset", "synthetic"])
