"""Whole runs: what is written, resuming after every kind of end, what is never saved."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from support import recording_observer
from support.quick_jit import STEP_OPTIONS
from support.run_results import bits, is_timing, lines

import pst_jax
from pst_jax.checkpoints import layout as checkpoint_files
from pst_jax.convert import read_weights
from pst_jax.errors import Stopped, UserError
from train import evaluate as evaluate_command
from train import loop
from train.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from train.evaluation import source as evaluation_source
from train.run.checkpoints import restore
from train.run.folder import RunFolder
from train.setup import make_eval_setup, make_setup

# 12 steps, 3 to the epoch; saved and evaluated after 6 and 12.
CONFIG = Config(
  epochs=4,
  batch_size=8,
  eval_batch_size=10,
  eval_every_epochs=2,
  eval_top_k=(0, 1),
  label_smoothing=0.1,
  ema_decay=0.9,
  log_every=1,
  model=ModelConfig(name="shallow_pst", stem="small", width=0.125, dropout=0.1),
  data=DataConfig(
    dataset="synthetic",
    synthetic_examples=24,
    synthetic_classes=4,
    image_size=8,
    crop="shift",
    max_shift=1,
    eval_crop=1.0,
    threads=1,
  ),
  optim=OptimConfig(learning_rate=0.05, warmup_epochs=1),
  checkpoint=CheckpointConfig(every_epochs=2),
)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
  """All runs share one compiled setup, on one device, as their configs differ in paths alone."""
  setups = {}

  def shared(config, num_classes, num_train):
    key = dataclasses.replace(config, run_dir="", log_every=1, profile_steps="", loggers=())
    if key not in setups:
      setups[key] = make_setup(key, num_classes, num_train, jax.devices()[:1])
    return dataclasses.replace(setups[key], config=config)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: STEP_OPTIONS)
    patch.setattr(evaluation_source, "make_eval_setup", lambda *args: shared(*args, 24))
    patch.setattr(loop, "make_setup", shared)
    yield


def config_in(folder, **fields) -> Config:
  return dataclasses.replace(CONFIG, run_dir=str(folder), **fields)


def steps_saved(folder) -> list[int]:
  return checkpoint_files.saved_steps(pathlib.Path(folder) / "checkpoints")


@dataclasses.dataclass(frozen=True)
class Trained:
  folder: pathlib.Path
  config: Config
  state: list
  accuracy: dict


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
  """An uninterrupted run; its folder stays as it is."""
  folder = tmp_path_factory.mktemp("runs") / "trained"
  result = loop.train(config_in(folder))
  return Trained(folder, config_in(folder), bits(result.state), result.metrics)


@pytest.fixture
def copied(trained, tmp_path):
  """A copy of that run, to be spoilt; and its config."""
  folder = shutil.copytree(trained.folder, tmp_path / "a copy")
  return folder, config_in(folder)


def assert_same_run(folder, result, trained):
  assert bits(result.state) == trained.state
  assert lines(folder) == lines(trained.folder)
  assert result.metrics == trained.accuracy


# What a run writes


def test_every_step_and_evaluation_has_its_line(trained):
  found = lines(trained.folder)
  assert [line["step"] for line in found if "loss" in line] == list(range(1, 13))
  assert [line["step"] for line in found if "eval/top1_k1" in line] == [6, 12]
  assert {"epoch", "loss", "learning_rate", "grad_norm", "param_norm"} < set(found[0])
  assert {"grad_norm_backbone", "grad_norm_neck", "grad_norm_head"} < set(found[0])
  assert all(line["top1"] in {i / 8 for i in range(9)} for line in found if "loss" in line)
  rates = [line["learning_rate"] for line in found if "loss" in line]
  assert rates[:4] == pytest.approx([0, 0.05 / 3, 0.1 / 3, 0.05])
  assert rates[-1] < rates[-2] < 0.05


def test_an_evaluation_counts_the_whole_split(trained):
  last = lines(trained.folder)[-1]
  assert last["step"] == 12
  assert list(trained.accuracy) == ["k0", "k1"]
  for name, metrics in trained.accuracy.items():
    assert last[f"eval/count_{name}"] == 24
    assert last[f"eval/top1_{name}"] == metrics["top1"]


def test_the_run_folder_holds_its_config_and_checkpoints(trained):
  assert RunFolder(trained.folder).read_config() == trained.config
  assert steps_saved(trained.folder) == [6, 12]
  assert list((trained.folder / "tensorboard").iterdir())


def test_the_log_tells_where_the_time_went(trained):
  text = (trained.folder / "metrics.jsonl").read_text()
  found = [line for line in map(json.loads, text.splitlines()) if "loss" in line]
  kinds = [f"{kind}_seconds" for kind in ("compute", "data_wait", "evaluation", "checkpoint")]
  assert all(line[kind] >= 0 for line in found for kind in kinds)
  assert found[0]["compilation_seconds"] > 0
  assert all(line["compilation_seconds"] == 0 for line in found[1:])
  # Evaluation and saving come after the line of their step, and are in the next one.
  for kind in ("evaluation_seconds", "checkpoint_seconds"):
    assert [line["step"] for line in found if line[kind]] == [7]


# Profiling


def traces(folder) -> list[pathlib.Path]:
  return [f for f in (folder / "profile").rglob("*") if f.is_file() and f.stat().st_size]


def test_a_run_profiles_the_steps_asked_for_and_only_when_it_does_them(
  trained, copied, monkeypatch, capsys
):
  """Resumed after step 6, it does the steps from 7."""
  folder, config = copied
  shutil.rmtree(folder / "checkpoints" / "12")
  annotated = []
  original = jax.profiler.StepTraceAnnotation
  monkeypatch.setattr(
    jax.profiler,
    "StepTraceAnnotation",
    lambda name, step_num: annotated.append(step_num) or original(name, step_num=step_num),
  )
  result = loop.train(dataclasses.replace(config, profile_steps="3:9"))
  assert annotated == [7, 8, 9]
  assert any(file.name.endswith(".xplane.pb") for file in traces(folder))
  assert f"profile             xprof --logdir {folder}/profile\n" in capsys.readouterr().out
  assert_same_run(folder, result, trained)
  before = traces(folder)
  loop.train(dataclasses.replace(config, profile_steps="3:9"))
  assert traces(folder) == before


def test_a_run_that_stops_within_the_profile_still_writes_it(tmp_path, monkeypatch):
  Wrapped(monkeypatch, 3, before=interrupt)
  with pytest.raises(KeyboardInterrupt):
    loop.train(config_in(tmp_path, profile_steps="2:5"))
  assert traces(tmp_path)


def test_steps_past_the_end_cannot_be_profiled(tmp_path):
  with pytest.raises(
    UserError, match="profile_steps is 12:13, but the run ends with step 12: choose steps inside"
  ):
    loop.train(config_in(tmp_path / "run", profile_steps="12:13"))
  assert not (tmp_path / "run").exists()


# Resuming


def test_a_finished_run_is_evaluated_and_not_trained_on(trained, copied, capsys):
  folder, config = copied
  result = loop.train(config)
  assert_same_run(folder, result, trained)
  out = capsys.readouterr().out
  assert "finished at step 12" in out
  assert f"top-1 with top_k=1  {100 * trained.accuracy['k1']['top1']:.2f} % of 24" in out
  # The folder's name has a space: what is proposed can be pasted into a shell all the same.
  assert f"Next:\n  python -m train.evaluate '{folder}' --top-k 1\n" in out
  assert out.endswith(f"  python -m pst_jax convert '{folder}' 'a copy.safetensors'\n")


def truncate(file):
  os.truncate(file, file.stat().st_size // 2)


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, pathlib.Path.unlink])
def test_a_damaged_newest_checkpoint_is_named_and_the_run_goes_on(trained, copied, caplog, damage):
  folder, config = copied
  files = [f for f in (folder / "checkpoints" / "12" / "state").rglob("*") if f.is_file()]
  damage(max(files, key=lambda f: f.stat().st_size))
  result = loop.train(config)
  (warning,) = [r.getMessage() for r in caplog.records if r.name == "pst_jax.checkpoints.read"]
  assert re.search(r"Passed over .* step 12 \(.*\); step 6 is used instead", warning)
  assert_same_run(folder, result, trained)
  assert steps_saved(folder) == [6, 12]


class Wrapped:
  """Stands in for the compiled step and does something else before or after one of the steps."""

  def __init__(self, monkeypatch, at_step, before=None, after=None):
    self.at_step, self.before, self.after = at_step, before, after
    original = loop.make_setup

    def make(*arguments):
      setup = original(*arguments)
      return dataclasses.replace(setup, train_step=lambda *args: self.step(setup, *args))

    monkeypatch.setattr(loop, "make_setup", make)

  def step(self, setup, state, batch):
    due = int(state.step) + 1 == self.at_step
    if due and self.before:
      state = self.before(state)
    new = setup.train_step(state, batch)
    return self.after(*new) if due and self.after else new


def interrupt(state):
  raise KeyboardInterrupt


def with_bias(state, value):
  """The state with that value in the last bias, on which every logit depends."""
  params = jax.tree.map(lambda leaf: leaf, state.params)
  linear = params["head"]["linear"]
  linear["bias"] = jax.device_put(np.full(4, value, np.float32), linear["bias"].sharding)
  return state.replace(params=params)


@pytest.mark.parametrize("step", [2, 7])
def test_an_interrupted_run_goes_on_to_the_same_end(trained, tmp_path, step):
  """Interrupted at step 2 it starts anew: two whole runs are equal to the bit, too."""
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    Wrapped(patch, step, before=interrupt)
    loop.train(config_in(tmp_path))
  assert len(lines(tmp_path)) < len(lines(trained.folder))
  assert_same_run(tmp_path, loop.train(config_in(tmp_path)), trained)


@pytest.mark.parametrize("stop", [6, 8])
def test_a_stopped_run_is_saved_there_and_goes_on_to_the_same_end(trained, tmp_path, stop):
  """At step 6 a checkpoint is due anyway."""
  with pytest.raises(Stopped, match=f"stopped at step {stop} of 12, which is saved"):
    loop.train(config_in(tmp_path), lambda step: step == stop)
  assert steps_saved(tmp_path) == sorted({6, stop})
  assert lines(tmp_path)[-1]["step"] == stop
  assert_same_run(tmp_path, loop.train(config_in(tmp_path)), trained)


def test_a_run_that_is_to_stop_at_its_last_step_ends_as_ever(trained, tmp_path):
  assert_same_run(tmp_path, loop.train(config_in(tmp_path), lambda step: step == 12), trained)


# Observers


def test_a_run_with_an_observer_is_the_same_run_and_each_line_is_there_once(trained, tmp_path):
  """Stopped at step 7, and interrupted at step 11, before the next checkpoint."""
  config = config_in(tmp_path, loggers=(recording_observer.NAME,))
  with pytest.raises(Stopped):
    loop.train(config, lambda step: step == 7)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    Wrapped(patch, 11, before=interrupt)
    loop.train(config)
  assert_same_run(tmp_path, loop.train(config), trained)
  assert not (tmp_path / "tensorboard").exists()
  found = recording_observer.points(tmp_path)
  assert [number for number, *_ in found] == list(range(len(found)))
  given = [{"step": step} | values for _, step, values in found]
  expected = [
    {name: value for name, value in line.items() if not is_timing(name)} for line in given
  ]
  assert expected == lines(trained.folder)
  assert (
    len({each["begin"] for each in recording_observer.recorded(tmp_path) if "begin" in each}) == 1
  )


def test_an_observer_that_is_not_installed_stops_a_run_before_anything_is_made(tmp_path):
  with pytest.raises(UserError, match="nowhere is not installed: give module:class, with the mod"):
    loop.train(config_in(tmp_path / "run", loggers=("nowhere:At",)))
  assert not list(tmp_path.iterdir())


# Losses that are not finite


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(trained, tmp_path, log_every):
  config = config_in(tmp_path, log_every=log_every)
  (rate,) = [x["learning_rate"] for x in lines(trained.folder) if x["step"] == 8]
  with (
    pytest.MonkeyPatch.context() as patch,
    pytest.raises(
      UserError,
      match=r"the loss was nan \(.* of \d+ gradients.*\) at step 8 with learning rate "
      f"{rate:.3g}; the last good checkpoint is step 6: lower optim.learning-rate, or",
    ),
  ):
    Wrapped(patch, 8, before=lambda state: with_bias(state, jnp.nan))
    loop.train(config)
  assert steps_saved(tmp_path) == [6]


def test_without_a_checkpoint_the_error_says_so(tmp_path, monkeypatch):
  Wrapped(monkeypatch, 2, before=lambda state: with_bias(state, jnp.nan))
  with pytest.raises(UserError, match=r"nan .* at step 2 .*; there is no checkpoint yet: lower"):
    loop.train(config_in(tmp_path))


def test_parameters_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
  """The loss of step 12 comes before its update and is finite."""

  def overflow(state, metrics):
    return with_bias(state, jnp.inf), metrics | {"param_norm": jnp.inf}

  Wrapped(monkeypatch, 12, after=overflow)
  with pytest.raises(UserError, match=r"param_norm was inf at step 12 .* checkpoint is step 6"):
    loop.train(config_in(tmp_path))
  assert steps_saved(tmp_path) == [6]
  assert_saved_values_are_finite(config_in(tmp_path))


def assert_saved_values_are_finite(config):
  setup = loop.make_setup(config, 4, 24)
  folder = RunFolder(config.run_dir)
  for step in steps_saved(folder.path):
    state = restore(folder.checkpoints, setup.abstract_state, step).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


# Evaluation


def table(capsys) -> dict[int, list[float]]:
  """The rows of the table that was printed, by top_k."""
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  rows = [row for row in rows if row and row[0].isdigit() and len(row) == 5]
  return {int(row[0]): [float(cell) for cell in row[1:]] for row in rows}


@pytest.mark.parametrize("options", ["", "--top-k 0 1", "--step 12"])
def test_evaluation_prints_the_figures_of_the_last_evaluation(trained, capsys, options):
  capsys.readouterr()
  evaluate_command.main([str(trained.folder), *options.split()])
  found = table(capsys)
  assert list(found) == [0, 1]
  for name, expected in trained.accuracy.items():
    assert found[int(name[1:])] == [
      round(100 * expected["top1"], 2),
      round(100 * expected["top5"], 2),
      round(expected["loss"], 4),
      24,
    ]


def test_the_best_checkpoint_can_be_evaluated(trained, capsys):
  evaluate_command.main([str(trained.folder), "--step", "best"])
  evaluations = [line for line in lines(trained.folder) if "eval/top1_k0" in line]
  measured = {line["step"]: line["eval/top1_k0"] for line in evaluations}
  best = max(measured, key=lambda step: (measured[step], step))
  out = capsys.readouterr().out
  assert f"{trained.folder}: shallow_pst, 4 classes, stem small, width 0.125, step {best}, " in out
  assert "split validation of synthetic, images of 8x8" in out


def test_a_checkpoint_that_is_not_there_lists_those_that_are(trained):
  with pytest.raises(UserError, match=r"no checkpoint of step 5 in .*; there are \[12, 6"):
    evaluate_command.main([str(trained.folder), "--step", "5"])


def test_evaluation_passes_over_a_damaged_checkpoint_and_changes_nothing(copied, caplog, capsys):
  folder, _ = copied
  (folder / "checkpoints" / "12" / "record" / "metadata").write_text("{}")
  before = sorted(folder.rglob("*"))
  evaluate_command.main([str(folder)])
  assert "step 6 is used instead" in caplog.text
  assert "step 6, moving average" in capsys.readouterr().out
  assert sorted(folder.rglob("*")) == before


def test_any_number_of_devices_evaluates_a_run():
  config = dataclasses.replace(CONFIG, fsdp=4)
  with pytest.raises(UserError, match="fsdp=4 does not divide the 3 devices"):
    make_setup(config, 4, 24, jax.devices()[:3])
  setup = make_eval_setup(config, 4, jax.devices()[:3])
  assert setup.mesh.size == 3


SCHEDULE_FREE = OptimConfig(name="optax.contrib:schedule_free_adamw", schedule="constant")


def test_a_stopped_schedule_free_run_is_evaluated_and_converted_by_its_average(tmp_path):
  config = config_in(tmp_path, ema_decay=0.0, optim=SCHEDULE_FREE)
  with pytest.raises(Stopped):
    loop.train(config, lambda step: step == 7)
  state = loop.train(config).state
  (kept,) = [s for s in state.opt_state if hasattr(s, "z")]
  expected = optax.contrib.schedule_free_eval_params(kept, state.params)
  assert np.any(state.params["head"]["linear"]["kernel"] != kept.z["head"]["linear"]["kernel"])
  found = read_weights(tmp_path)
  assert found.metadata.weights == "ema"
  assert bits(found.variables["params"]) == bits(state.ema["params"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema["params"], expected
  )
  assert bits(state.ema["batch_stats"]) == bits(state.batch_stats)


def test_a_second_average_beside_schedule_free_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"ema_decay is 0.9, but optax.contrib:schedule_free_adamw"):
    loop.train(config_in(tmp_path, optim=SCHEDULE_FREE))


# What learns


@pytest.mark.parametrize("name", ["sgd", SCHEDULE_FREE.name])
def test_a_gate_that_is_trained_alone_moves_alone(trained, tmp_path, name):
  """Two leaves of the PST module; all others keep their bits, statistics and averages too."""
  coarse = {**flatten_dict(read_weights(trained.folder).variables)}
  config = config_in(
    tmp_path,
    init_from=str(trained.folder),
    epochs=1,
    model=dataclasses.replace(CONFIG.model, top_k=1),
    ema_decay=0.9 if name == "sgd" else 0.0,
    optim=OptimConfig(name=name, learning_rate=0.5, trainable=("*/gate*",)),
  )
  state = loop.train(config).state
  for found in (state.variables, state.ema):
    after = flatten_dict(found)
    assert after.keys() == coarse.keys()
    moved = {path[-1] for path in after if after[path].tobytes() != coarse[path].tobytes()}
    assert moved == {"gate_kernel", "gate_bias"}
