import pathlib

import pytest

from train import prepare
from train.config import ConfigError, DataConfig
from train.data import open_dataset
from train.paths import local_folder
from train.run_folder import RunFolder


def test_the_home_folder_is_known():
  assert local_folder("~/a", "x") == pathlib.Path.home() / "a"


@pytest.mark.parametrize("name", ["a:b", "gs:", "a/b://c", "C:/data"])
def test_a_name_with_a_colon_is_a_folder(name):
  assert local_folder(name, "x") == pathlib.Path(name)


TARS = ["imagenet2012", "--manual-dir", "tars", "--data-dir"]


@pytest.mark.parametrize(
  ("option", "use"),
  [
    ("data.data_dir", lambda url: open_dataset(DataConfig(data_dir=url))),
    ("run_dir", RunFolder),
    ("--data-dir", lambda url: prepare.main([*TARS, url])),
    ("--manual-dir", lambda url: prepare.main([*TARS, "data", "--manual-dir", url])),
    (
      "--source",
      lambda url: prepare.main(["folder", "--source", url, "--name", "n", "--data-dir", "data"]),
    ),
  ],
)
@pytest.mark.parametrize("url", ["gs://bucket/data", "s3://bucket"])
def test_a_bucket_is_refused_with_what_to_do_before_anything_is_made(
  tmp_path, monkeypatch, option, use, url
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ConfigError, match=f"{option} is {url}, .* mount it"):
    use(url)
  assert not list(tmp_path.iterdir())
