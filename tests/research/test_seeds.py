import json

import pytest
from support.quick_jit import STEP_OPTIONS

import pst_jax
from pst_jax.errors import UserError
from research import seeds


def test_the_interval_is_students_for_paired_differences():
  mean, margin = seeds.paired([91.0, 92.5, 94.0], [90.0, 91.0, 92.0])
  # Differences 1, 1.5, 2: deviation 0.5; t of two degrees of freedom is 4.3027.
  assert (mean, margin) == (1.5, pytest.approx(4.302653 * 0.5 / 3**0.5, rel=1e-6))


def test_a_row_says_how_it_differs_from_the_first():
  results = {("resnet18", "k0"): [90.0, 91.0], ("resnet18_pst", "k4"): [91.0, 92.5]}
  head, first, second = seeds.table(results, "top-1 %", 2).splitlines()
  assert head.split()[:5] == ["network", "evaluated", "top-1", "%", "least"]
  assert first.split() == ["resnet18", "k0", "90.50", "90.00", "91.00", "-", "-"]
  assert second.split()[2:6] == ["91.75", "91.00", "92.50", "+1.25"]


def test_one_seed_has_no_interval():
  results = {("a", "k0"): [1.0], ("b", "k0"): [2.0]}
  assert seeds.table(results, "x", 1).splitlines()[2].split()[-2:] == ["+1.00", "-"]


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (["--seeds", "0"], "--seeds is 0"),
    (["--networks", "resnet18_psd"], "resnet18_psd"),
    (["--networks", "resnet18_pst@x"], "after the @ stands a number, such as resnet18_pst@4"),
  ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, options, said):
  with pytest.raises(UserError, match=said):
    seeds.main(["synthetic", "--run-dir", str(tmp_path / "runs"), *options])
  assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_networks_are_trained_once_and_compared(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(pst_jax, "compiler_options", lambda platform=None: STEP_OPTIONS)
  path = tmp_path / "seeds.json"
  options = f"digits --networks resnet18_pst@2 --seeds 1 --top-k 0 2 --epochs 1 --json {path}"
  data = f"--train-split train[:64] --data-dir {tmp_path} --run-dir {tmp_path}"
  for _ in range(2):
    seeds.main(f"{options} {data} --force".split())
  out = capsys.readouterr().out
  assert "a new run" in out and "finished at step 1" in out
  rows = json.loads(path.read_text())["rows"]
  assert [(row["network"], row["evaluation"]) for row in rows] == [
    ("resnet18_pst@2", "k0"),
    ("resnet18_pst@2", "k2"),
  ]
  config = json.loads((tmp_path / "resnet18_pst@2-0" / "config.json").read_text())
  assert config["model"]["top_k"] == 2
