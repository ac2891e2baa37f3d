"""The command that measures what the fine branch costs."""

import json

import pytest
from support.quick_jit import OPTIONS

from pst_jax import __main__ as command_line
from pst_jax.models import create_model

SMALL = {"stem": "small", "width": 0.125, "num_classes": 4}


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
  def small(name, **options):
    return create_model(name, **options, **SMALL)

  monkeypatch.setattr("pst_jax.inference.cost.create_model", small)
  monkeypatch.setattr("pst_jax.inference.cost.compiler_options", lambda: OPTIONS)


def benchmark(*arguments):
  return command_line.main(["benchmark", "resnet18_pst", *map(str, arguments)])


def test_every_rule_is_measured_with_every_top_k(tmp_path, capsys):
  path = tmp_path / "costs.json"
  rules = "--top-k", 0, 1, 2, "--selection", "top_k", "random"
  options = "--image-size", 16, "--batch-size", 2, "--rounds", 2, "--json", path
  assert benchmark(*rules, *options) == 0
  variants = json.loads(path.read_text())["variants"]
  names = [(each["top_k"], each["selection"]) for each in variants]
  assert names == [(0, "top_k"), (1, "top_k"), (1, "random"), (2, "top_k"), (2, "random")]
  assert all(each["seconds_per_image"] > 0 and each["memory_bytes"] > 0 for each in variants)
  assert len(capsys.readouterr().out.splitlines()) == 2 + len(variants)


@pytest.mark.parametrize(
  ("arguments", "complaint"),
  [
    (("--batch-size", 0), "--batch-size is 0, but it must be 1 or more"),
    (("--image-size", 16, "--top-k", 5), "top_k=5 coarse tokens were asked for"),
    (("--selection", "best"), "must be one of top_k"),
  ],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(arguments, complaint, capsys):
  assert benchmark(*arguments) == 2
  assert complaint in capsys.readouterr().err
