"""`python -m train RUN`: it goes on by its own config, and is made longer where that is exact."""

import dataclasses
import json
import pathlib
import re
import shutil
import tarfile

import jax
import pytest
from support.quick_jit import STEP_OPTIONS
from support.run_results import bits, lines

import pst_jax
from pst_jax.checkpoints.layout import saved_steps
from pst_jax.errors import Stopped, UserError
from train import __main__ as train_command
from train import loop
from train.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from train.run.folder import RunFolder
from train.setup import make_setup
from train.tasks.detection.config import Config as Boxes

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "runs"
SCHEDULES = {
  "constant": OptimConfig(learning_rate=0.05, schedule="constant", warmup_epochs=1),
  # Falls once before the first end and once after it.
  "step": OptimConfig(learning_rate=0.05, schedule="step", step_epochs=(1.0, 3.0)),
}
# 3 steps to the epoch.
SHORT = Config(
  epochs=2,
  batch_size=8,
  eval_batch_size=24,
  eval_every_epochs=1,
  eval_top_k=(0,),
  ema_decay=0.9,
  log_every=1,
  model=ModelConfig(name="shallow", stem="small", width=0.125, dropout=0.1),
  data=DataConfig(
    dataset="synthetic", synthetic_examples=24, synthetic_classes=4, image_size=8, threads=1
  ),
  checkpoint=CheckpointConfig(every_epochs=1),
)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
  """Each schedule is compiled once, on one device: the length changes no program."""
  setups = {}

  def shared(config, num_classes, num_train):
    key = dataclasses.replace(config, run_dir="")
    if key not in setups:
      setups[key] = make_setup(key, num_classes, num_train, jax.devices()[:1])
    return dataclasses.replace(setups[key], config=config)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: STEP_OPTIONS)
    patch.setattr(loop, "make_setup", shared)
    yield


def config_in(folder, schedule="constant", **fields) -> Config:
  return dataclasses.replace(SHORT, run_dir=str(folder), optim=SCHEDULES[schedule], **fields)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
  """By schedule: the folder of a finished short run, and the result of one that was longer."""
  root, found = tmp_path_factory.mktemp("runs"), {}
  for name in SCHEDULES:
    loop.train(config_in(root / name, name))
    longer = loop.train(config_in(root / f"{name}-longer", name, epochs=4))
    found[name] = root / name, root / f"{name}-longer", longer
  return found


@pytest.fixture
def short(ended, tmp_path):
  """A copy of a finished short run."""
  return lambda name="constant": pathlib.Path(shutil.copytree(ended[name][0], tmp_path / name))


@pytest.fixture
def train(monkeypatch):
  """The command, and what its last run ended with."""

  def run(*arguments, should_stop=None):
    results, original = [], loop.train

    def kept(config, asked, times):
      results.append(original(config, should_stop or asked, times))

    with monkeypatch.context() as patch:
      patch.setattr(loop, "train", kept)
      train_command.main([str(each) for each in arguments])
    return results[-1]

  return run


def assert_is(longer, folder, result):
  _, expected, whole = longer
  assert bits(result.state) == bits(whole.state)
  assert lines(folder) == lines(expected)
  assert result.metrics == whole.metrics


# Going on


@pytest.mark.slow
def test_a_run_goes_on_by_its_own_config(ended, tmp_path, train):
  folder = tmp_path / "run"
  with pytest.raises(Stopped):
    loop.train(config_in(folder, epochs=4), lambda step: step == 5)
  assert_is(ended["constant"], folder, train(folder))


@pytest.mark.slow
def test_a_run_that_was_moved_goes_on_where_it_is_now(short, train, tmp_path):
  moved = short().rename(tmp_path / "moved")
  train(moved / "config.json")
  assert RunFolder(moved).read_config().run_dir == str(moved)
  assert sorted(x.name for x in tmp_path.iterdir()) == ["moved"]


@pytest.mark.slow
def test_an_option_that_contradicts_the_run_is_refused(short, train):
  folder = short()
  before = (folder / "config.json").read_text()
  with pytest.raises(UserError, match=r"holds a run with another config \(seed: 0 -> 3\): choose"):
    train(folder, "--seed", 3)
  assert (folder / "config.json").read_text() == before


@pytest.mark.slow
def test_the_advice_to_choose_another_folder_starts_a_run_by_the_same_config(short, train):
  folder = short()
  other = folder.with_name("other")
  train(folder, "--seed", 3, "--run-dir", other)
  assert RunFolder(other).read_config() == config_in(other, seed=3)
  assert lines(other) != lines(folder)


@pytest.mark.slow
def test_an_option_that_changes_no_result_is_taken_and_kept(short, train):
  folder = short()
  train(folder, "--data.prefetch", 3)
  assert RunFolder(folder).read_config().data.prefetch == 3


def test_a_run_of_old_goes_on(tmp_path, monkeypatch):
  """Its config.json has no evaluations by name, and none of the options that came later."""
  with tarfile.open(GOLDEN / "pst_8b22a15.tar.xz") as archive:
    archive.extractall(tmp_path, filter="data")
  seen = []
  monkeypatch.setattr(loop, "train", lambda config, *arguments: seen.append(config))
  train_command.main([str(tmp_path / "pst"), "--data.data-dir", "elsewhere"])
  (config,) = seen
  assert (config.epochs, config.batch_size, config.run_dir) == (2.0, 64, str(tmp_path / "pst"))
  assert (config.model.width, config.data.data_dir) == (0.02, "elsewhere")
  assert list(config.evals) == ["k0", "k4"]


@pytest.mark.slow
def test_a_config_of_a_newer_version_is_named(short, train):
  folder = short()
  values = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(values | {"of_tomorrow": 1}))
  with pytest.raises(UserError, match=r"config\.json cannot be used: .* unknown field of_tomorrow"):
    train(folder)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_folder_that_is_no_run_is_told_what_was_looked_for(tmp_path, train, name):
  (tmp_path / "empty").mkdir()
  path = tmp_path / name
  message = f"config file {path} was not found: .* or the folder of a run, which holds its config"
  with pytest.raises(UserError, match=message):
    train(path)


# Made longer


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_longer_run_is_the_one_that_would_have_been_started(ended, short, train, name):
  folder = short(name)
  assert_is(ended[name], folder, train(folder, "--epochs", 4))
  assert RunFolder(folder).read_config().epochs == 4


@pytest.mark.slow
def test_an_end_that_nothing_else_falls_on_changes_no_step(ended, tmp_path, train):
  """After 4 of 12 steps; the evaluation there stays in the log."""
  folder = tmp_path / "run"
  loop.train(config_in(folder, epochs=4 / 3))
  result = train(folder, "--epochs", 4)
  _, expected, whole = ended["constant"]
  assert bits(result.state) == bits(whole.state)
  extra = [line for line in lines(folder) if line not in lines(expected)]
  assert [line["step"] for line in extra] == [4]
  assert "eval/top1_k0" in extra[0]


@pytest.mark.slow
def test_a_run_that_stops_while_it_is_made_longer_goes_on_by_its_name(ended, short, train):
  folder = short()
  with pytest.raises(Stopped, match="stopped at step 8 of 12"):
    train(folder, "--epochs", 4, should_stop=lambda step: step == 8)
  assert_is(ended["constant"], folder, train(folder))


@pytest.mark.slow
def test_a_run_that_dies_before_its_first_new_checkpoint_goes_on(ended, short, train):
  def die(step):
    raise KeyboardInterrupt

  folder = short()
  with pytest.raises(KeyboardInterrupt):
    train(folder, "--epochs", 4, should_stop=die)
  assert saved_steps(folder / "checkpoints") == [3, 6]
  assert_is(ended["constant"], folder, train(folder))
  assert not (folder / "checkpoints" / "damaged").exists()


@pytest.mark.slow
def test_a_run_that_was_stopped_is_made_longer(ended, tmp_path, train):
  folder = tmp_path / "run"
  with pytest.raises(Stopped):
    loop.train(config_in(folder), lambda step: step == 2)
  assert_is(ended["constant"], folder, train(folder, "--epochs", 4))


@pytest.mark.slow
def test_a_longer_run_falls_back_to_a_checkpoint_of_the_shorter_one(ended, short, train):
  folder = short()
  with pytest.raises(Stopped):
    train(folder, "--epochs", 4, should_stop=lambda step: step == 7)
  (folder / "checkpoints" / "7" / "record" / "metadata").write_text("{}")
  assert_is(ended["constant"], folder, train(folder))


@pytest.mark.slow
def test_a_run_is_not_made_shorter(short, train):
  with pytest.raises(UserError, match=r"another config \(epochs: 2 -> 1\.0\).*to resume it$"):
    train(short(), "--epochs", 1)


@pytest.mark.parametrize(
  ("config", "reason"),
  [
    (Config(), "optim.schedule cosine falls until the end of the run"),
    (Config(optim=OptimConfig(schedule="linear")), "optim.schedule linear falls until the end"),
    (
      Boxes(optim=OptimConfig(schedule="constant")),
      "data.close_mosaic_epochs counts from the end of the run",
    ),
  ],
  ids=["cosine", "linear", "detection"],
)
def test_a_run_that_is_bound_to_its_length_says_what_to_do(tmp_path, config, reason):
  from train.run.folder import open_run

  config = dataclasses.replace(config, run_dir=str(tmp_path))
  with open_run(config):
    pass
  with (
    pytest.raises(UserError) as error,
    open_run(dataclasses.replace(config, epochs=config.epochs + 1)),
  ):
    pass
  text = str(error.value)
  assert re.search(r"another config \(epochs: [\d.]+ -> [\d.]+\): choose another --run-dir", text)
  assert f"it cannot be made longer, as {reason}" in text
  assert text.endswith(f"can start from its weights with --init-from {tmp_path}")
