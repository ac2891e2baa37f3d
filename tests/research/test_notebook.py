"""The notebook for researchers runs as it is committed, with what it printed."""

import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / "research" / "selection.ipynb"


@pytest.fixture(scope="module")
def notebook():
  return pytest.importorskip("nbformat").read(NOTEBOOK, 4)


def cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_committed_as_it_ran_from_top_to_bottom(notebook):
  assert [cell.execution_count for cell in cells(notebook)] == [1, 2, 3, 4, 5]
  assert all(cell.outputs for cell in cells(notebook))
  assert "error" not in {out.output_type for cell in cells(notebook) for out in cell.outputs}


@pytest.mark.slow
def test_it_runs_again_and_finds_what_it_says(notebook, monkeypatch):
  from nbclient import NotebookClient

  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  place = {"metadata": {"path": str(NOTEBOOK.parent)}}
  found = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
  training, *_, table = ("".join(o.get("text", "") for o in c.outputs) for c in cells(found))
  assert training.startswith("top-1 with top_k=0")
  rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
  assert rows.keys() == {"coarse", "top_k", "strongest", "random", "oracle"}
  assert rows["oracle"][1] == "100.0" and rows["top_k"][2] == "100.0"
  assert all(float(row[0]) > 90 for row in rows.values())
