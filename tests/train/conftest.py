import pytest
from support import shallow_networks

from train.config import DataConfig
from train.tasks.classification.data import open_dataset


@pytest.fixture(scope="module", autouse=True)
def networks_of_few_layers():
  with pytest.MonkeyPatch.context() as patch:
    shallow_networks.install(patch.setitem)
    yield


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
  """A folder with the digits, to be read alone."""
  data_dir = tmp_path_factory.mktemp("digits")
  open_dataset(DataConfig(dataset="digits", data_dir=str(data_dir), eval_split="test"))
  return data_dir
