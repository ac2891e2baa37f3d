"""The examples of the README are code that runs."""

import ast
import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_python(example):
  ast.parse(example)


def test_pst_in_ones_own_network():
  names = {}
  exec(EXAMPLES[0], names)
  module, variables = names["TwoLevels"](), names["variables"]
  fused = module.apply(variables, names["jnp"].zeros((2, 64, 64, 3)))
  assert fused.shape == (2, 8, 8, 128)


def test_the_files_that_the_readme_names_exist():
  text = README.read_text()
  for path in re.findall(r"(?:configs|docs|benchmarks)/[\w/]+\.\w+", text):
    assert (README.parent / path).exists(), path
