import os
import re
import types

import pytest
from support.store import BUCKET, running_store

from train.config import DataConfig
from train.tasks.classification.data import open_dataset


@pytest.fixture(scope="session")
def shared_store():
  with running_store() as store:
    # Clients in C++ read the variables once.
    os.environ.update(store.environment())
    yield store
    for name in store.environment():
      os.environ.pop(name, None)


@pytest.fixture
def store(shared_store, monkeypatch):
  """The store, which does what is asked of it; retries come at once."""
  import gcsfs.retry

  async def at_once(seconds):
    pass

  monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=at_once))
  yield shared_store
  shared_store.rule = lambda method, path: None


@pytest.fixture
def folder(store, request):
  """A folder of its own in the bucket."""
  return f"gs://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name).strip('-')}"


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
  """A folder with the digits."""
  data_dir = tmp_path_factory.mktemp("digits")
  open_dataset(DataConfig(dataset="digits", data_dir=str(data_dir), eval_split="test"))
  return data_dir
