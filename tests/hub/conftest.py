import logging

import pytest
from support import tiny_weights
from support.hub_server import serve

from pst_jax.__main__ import main
from pst_jax.convert import write_weights


@pytest.fixture
def ask_at(monkeypatch):
  """Lets huggingface_hub ask at an address: it reads HF_ENDPOINT once, when it is imported."""
  constants = pytest.importorskip("huggingface_hub.constants")

  def ask_at(url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

  return ask_at


@pytest.fixture
def hub(tmp_path, monkeypatch, ask_at):
  """The stand-in; alice is logged in, and nothing is cached."""
  from huggingface_hub import constants
  from huggingface_hub.utils import disable_progress_bars

  disable_progress_bars()
  logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
  home = tmp_path / "huggingface"
  for name, value in {
    "HF_HUB_CACHE": str(home / "hub"),
    "HF_TOKEN_PATH": str(home / "token"),
    "HF_HUB_DISABLE_XET": True,
    "HF_HUB_DISABLE_TELEMETRY": True,
    "HF_HUB_OFFLINE": False,
  }.items():
    monkeypatch.setattr(constants, name, value)
  monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
  monkeypatch.setenv("HF_TOKEN", "hf_alice")
  with serve() as hub:
    ask_at(hub.url)
    yield hub


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
  return tiny_weights.save_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="session")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "w.safetensors"
  write_weights(path, tiny_weights.weights(step=4, class_names=("a", "b", "c")))
  return path


@pytest.fixture
def push():
  return lambda *arguments: main(["push", *map(str, arguments)])


@pytest.fixture
def refused(capsys):
  """The sentence that a command is refused with."""

  def refused(*arguments):
    assert main([*map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said

  return refused
