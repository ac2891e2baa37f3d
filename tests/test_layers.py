"""Imports run one way: the library stands alone."""

import ast
import pathlib

import pst_jax

LIBRARY = pathlib.Path(pst_jax.__file__).parent


def imported(file: pathlib.Path) -> list[str]:
  """What a module imports, also inside its functions."""
  names = []
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names.append(node.module or "")
  return names


def test_the_library_never_imports_the_trainer():
  files = sorted(LIBRARY.rglob("*.py"))
  assert len(files) > 50
  wrong = {
    str(file): name
    for file in files
    for name in imported(file)
    if name.split(".")[0] in ("train", "research", "benchmarks")
  }
  assert wrong == {}
