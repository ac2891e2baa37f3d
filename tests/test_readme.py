"""What the README and the pages of docs/ say is so: examples run, files and commands exist."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest
from support.quick_jit import STEP_FLAGS
from support.small_weights import small_weights

from pst_jax.__main__ import COMMANDS, main
from pst_jax.commands.models import stored_costs
from pst_jax.convert import write_weights

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = {page.name: page for page in (REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"))}
TEXT = "\n".join(page.read_text() for page in PAGES.values())
EXAMPLES = {
  name: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  for name, page in PAGES.items()
}
WITH_EXAMPLES = [name for name, examples in EXAMPLES.items() if examples]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_example_is_python(name):
  for example in EXAMPLES[name]:
    ast.parse(example)


CHECKS = {
  ("README.md", 0): "fused = TwoLevels().apply(variables, jnp.zeros((2, 64, 64, 3)))\n"
  "assert fused.shape == (2, 8, 8, 128)",
  ("README.md", 1): "assert fine_logits.shape == (2, 10)",
}
"""What must be so after an example."""


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_page_run_one_after_the_other(tmp_path, name):
  if name == "deploy.md":
    weights, exported = tmp_path / "w.safetensors", tmp_path / "digits.stablehlo"
    write_weights(weights, small_weights())
    assert main(["export", str(weights), str(exported), "--platforms", "cpu"]) == 0
  has_torch = importlib.util.find_spec("torch") and importlib.util.find_spec("onnxscript")
  lines = []
  for index, example in enumerate(EXAMPLES[name]):
    if has_torch or "pst_jax.torch" not in example:
      lines += [example, CHECKS.get((name, index), "")]
  script = tmp_path / "page.py"
  script.write_text("\n".join(lines))
  environment = {
    "PYTHONPATH": str(REPOSITORY),
    "XLA_FLAGS": STEP_FLAGS,
    "JAX_PLATFORMS": "cpu",
  }
  result = subprocess.run(
    [sys.executable, script],
    cwd=tmp_path,
    env=os.environ | environment,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr


def test_the_files_that_are_named_exist():
  for path in re.findall(r"(?:configs|docs|benchmarks|tools|tests)/[\w/]+(?:\.\w+)?", TEXT):
    assert (REPOSITORY / path).exists(), path


def test_the_links_lead_to_pages():
  for page in PAGES.values():
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
      assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_of_docs_is_linked_from_the_readme():
  readme = PAGES["README.md"].read_text()
  assert [name for name in PAGES if name != "README.md" and f"docs/{name}" not in readme] == []


def test_the_folders_of_the_layout_exist():
  layout = PAGES["README.md"].read_text().partition("## Layout")[2].partition("```\n")[2]
  parent = REPOSITORY
  for line in layout.partition("```")[0].splitlines():
    indent, name = re.match(r"( *)([\w./]+)", line).groups()
    path = (parent if indent else REPOSITORY) / name
    assert path.is_dir(), path
    parent = parent if indent else path


def test_the_configs_that_are_named_exist():
  configs = {path.stem for path in (REPOSITORY / "configs").rglob("*.py")}
  named = set(re.findall(r"python -m train(?:\.plan)? ([a-z]\w+)", TEXT)) - {"configs"}
  named |= set(re.findall(r"`(imagenet_\w+)`", TEXT))
  assert named
  assert named <= configs


def test_the_modules_and_commands_that_are_named_exist():
  for module in set(re.findall(r"python -m ((?:train|benchmarks)\.\w+)", TEXT)):
    assert importlib.util.find_spec(module), module
  assert set(re.findall(r"(?m)^pst_jax (\w+)", TEXT)) <= set(COMMANDS)


def test_the_tables_of_networks_have_the_stored_costs():
  rows = re.findall(r"\| `([\w-]+)` \| ([\d,]+) \| ([\d.]+) \|", PAGES["networks.md"].read_text())
  found = {name: (parameters, gflops) for name, parameters, gflops in rows}
  assert found == {
    name: (f"{cost['parameters']:,}", f"{cost['flops'] / 1e9:.2f}")
    for name, cost in stored_costs().items()
  }
