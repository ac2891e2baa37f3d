import pathlib

import pytest

from pst_jax import __main__ as command_line
from pst_jax.checkpoints import layout
from pst_jax.convert import io
from pst_jax.errors import UserError
from pst_jax.files import local_folder
from train import evaluate, prepare
from train.config import DataConfig
from train.run.folder import RunFolder
from train.tasks.classification.data import open_dataset


def test_the_home_folder_is_known():
  assert local_folder("~/a", "x") == pathlib.Path.home() / "a"


@pytest.mark.parametrize("name", ["a:b", "gs:", "a/b://c", "C:/data"])
def test_a_name_with_a_colon_is_a_folder(name):
  assert local_folder(name, "x") == pathlib.Path(name)


TARS = ["imagenet2012", "--manual-dir", "tars", "--data-dir"]


@pytest.mark.parametrize(
  ("option", "use"),
  [
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
  with pytest.raises(UserError, match=f"{option} is {url}, .* mount it"):
    use(url)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("option", "use"),
  [
    ("data.data_dir", lambda url: open_dataset(DataConfig(data_dir=url))),
    ("run_dir", RunFolder),
  ],
)
def test_a_bucket_that_no_library_reads_is_refused_likewise(tmp_path, monkeypatch, option, use):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=f"{option} is s3://bucket, .* mount it"):
    use("s3://bucket")
  assert not list(tmp_path.iterdir())


USES = {
  "data.data_dir": lambda path: open_dataset(DataConfig(data_dir=path)),
  "run_dir": RunFolder,
  "--data-dir": lambda path: prepare.main([*TARS, path]),
  "--manual-dir": lambda path: prepare.main([*TARS, "data", "--manual-dir", path]),
  "--source": lambda path: prepare.main(
    ["folder", "--source", path, "--name", "n", "--data-dir", "data"]
  ),
  "init_from": lambda path: io.read(path),
  "checkpoints": lambda path: layout.absolute(path),
}


@pytest.mark.parametrize("option", USES)
def test_a_home_folder_that_nobody_knows_is_a_mistake(tmp_path, monkeypatch, option):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"^~nosuchuser/x begins with a home folder.*write the path"):
    USES[option]("~nosuchuser/x")
  assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_folder_writes_paths_out(monkeypatch):
  monkeypatch.delenv("HOME")
  monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
  with pytest.raises(UserError, match=r"^~/tensorflow_datasets begins with a home folder that nob"):
    open_dataset(DataConfig())


EMPTY = {
  "run_dir": lambda: RunFolder(""),
  "data.data_dir": lambda: open_dataset(DataConfig(data_dir="")),
  "data-dir": lambda: prepare.main([*TARS, ""]),
  "name": lambda: prepare.main(["folder", "--source", "s", "--name", "", "--data-dir", "data"]),
  "source": lambda: evaluate.main([""]),
  "json": lambda: evaluate.main(["runs/digits", "--json", ""]),
}


@pytest.mark.parametrize("option", EMPTY)
def test_an_empty_text_is_no_path(tmp_path, monkeypatch, option):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=f"^{option} is an empty text: give"):
    EMPTY[option]()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("arguments", "option"),
  [
    (["inspect", ""], "file"),
    (["predict", "w.pt", "cat.jpg", ""], "images"),
    (["predict", "w.pt", "cat.jpg", "--json", ""], "json"),
    (["convert", "w.pt", ""], "dest"),
  ],
)
def test_an_empty_text_is_no_path_of_the_library_either(capsys, arguments, option):
  assert command_line.main(arguments) == 2
  assert capsys.readouterr().err.startswith(f"error: {option} is an empty text: give a value")
