import dataclasses
import json
import math
import pathlib
import typing

import pytest

from pst_jax.errors import UserError
from train.config import Config, EvalConfig, from_json, load_file
from train.config_values import check, difference, flatten, to_json
from train.options import parse
from train.schema import profile_range

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG_FILES = sorted((REPOSITORY / "configs").rglob("*.py"))


def changed(**fields) -> Config:
  """A config with {"batch_size": 1, "model__width": 2.0} set, of whatever type."""
  config = Config()
  for name, value in fields.items():
    section, _, field = name.rpartition("__")
    if section:
      inner = dataclasses.replace(getattr(config, section), **{field: value})
      config = dataclasses.replace(config, **{section: inner})
    else:
      config = dataclasses.replace(config, **{field: value})
  return config


# Config files


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_file_comes_back_from_json(path):
  config = load_file(str(path))
  assert from_json(to_json(config)) == config


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_file_says_how_to_run_it(path):
  assert f"python -m train {path.relative_to(REPOSITORY)}" in path.read_text().split('"""')[1]


def test_a_bare_name_is_looked_up_in_configs(monkeypatch):
  monkeypatch.chdir(REPOSITORY)
  moved = load_file("configs/classification/digits.py")
  assert load_file("digits") == load_file("digits.py") == load_file("configs/digits.py") == moved


def test_an_unknown_file_lists_those_that_exist(monkeypatch):
  monkeypatch.chdir(REPOSITORY)
  with pytest.raises(UserError, match=r"file digit was not found: .*configs/.*/digits\.py"):
    load_file("digit")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("settings = 3", r"does not assign `config = train\.config\.Config\(\.\.\.\)`"),
    ("config = {'epochs': 3}", "does not assign"),
    ("from train.config import *\nconfig = Config(epoch=3)", "keyword argument 'epoch'"),
    ("config = Config(", r"cannot be run \(SyntaxError: .*, line 1\)"),
    ("import train.nothing", "No module named 'train.nothing'"),
    ("from train.config import *\nconfig = Config(epochs=-1.0)", "epochs is -1.0"),
    ("from train.config import *\nconfig = Config(model={'name': 'x'})", "must be ModelConfig"),
  ],
)
def test_a_file_without_a_usable_config_is_refused(tmp_path, text, message):
  path = tmp_path / "mine.py"
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    load_file(str(path))


def test_a_config_file_may_load_another_one(tmp_path, monkeypatch):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "base.py").write_text(
    "from train.config import *\nconfig = Config(seed=3, epochs=7)"
  )
  (tmp_path / "configs" / "mine.py").write_text(
    "import dataclasses, pathlib\n"
    "from train.config import load_file\n"
    "base = load_file(pathlib.Path(__file__).with_name('base.py'))\n"
    "config = dataclasses.replace(base, seed=4)"
  )
  for folder, path in ((tmp_path, "configs/mine.py"), (tmp_path / "configs", "mine.py")):
    monkeypatch.chdir(folder)
    assert load_file(path) == Config(seed=4, epochs=7)


# The saved form


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"learnin_rate": 1}, "unknown field learnin_rate"),
    ({"optim": {"learnin_rate": 1}}, r"unknown field optim.learnin_rate: is it learning_rate\?"),
  ],
)
def test_an_unknown_field_in_a_saved_config_is_named(values, message):
  with pytest.raises(UserError, match=message):
    from_json(json.dumps(values))


@pytest.mark.parametrize(
  ("values", "where"), [([1], "the saved config"), ({"model": 3}, "model in the saved config")]
)
def test_a_saved_config_of_another_form_is_refused(values, where):
  with pytest.raises(UserError, match=f"{where} is .*, but it must be a table of fields"):
    from_json(json.dumps(values))


def test_a_saved_config_that_was_cut_off_is_refused():
  with pytest.raises(UserError, match="no valid JSON"):
    from_json(to_json(Config())[:-20])


def test_a_field_that_a_saved_config_lacks_has_its_default():
  assert from_json('{"model": {"width": 0.5}}') == changed(model__width=0.5)


# Resuming


def test_the_difference_shows_old_and_new_values():
  old, new = changed(seed=1, optim__learning_rate=0.1), changed(seed=2, optim__learning_rate=0.2)
  assert difference(old, new) == ["seed: 1 -> 2", "optim.learning_rate: 0.1 -> 0.2"]


def test_what_does_not_change_the_result_may_differ():
  new = changed(
    accumulation_steps=2,
    eval_batch_size=8,
    fsdp=2,
    model__remat=True,
    model__remat_policy="convolutions",
    model__coarse_implementation="blocked",
    run_dir="elsewhere",
    loggers=("wandb",),
    profile_steps="3:4",
    data__data_dir="elsewhere",
    data__threads=3,
    data__workers=2,
    data__prefetch=5,
    data__space_to_depth=True,
    data__on_bad_image="skip",
    checkpoint__keep_latest=7,
    checkpoint__read_back=True,
    check_replicas_every=3,
  )
  assert difference(Config(), new) == []


def test_every_other_field_must_stay():
  free = {"run_dir", "data.data_dir", "data.threads", "data.workers", "data.prefetch"}
  free |= {"data.on_bad_image", "profile_steps", "loggers"}
  free |= {"checkpoint.read_back", "check_replicas_every"}
  free |= {"checkpoint.keep_latest", "accumulation_steps", "eval_batch_size", "fsdp"}
  free |= {"model.remat", "model.remat_policy", "model.coarse_implementation"}
  free |= {"data.space_to_depth"}
  fields = {name for name in flatten(Config()) if not name.startswith("evals.")}
  fixed = {
    name
    for name in fields
    if difference(Config(), changed(**{name.replace(".", "__"): "another value"}))
  }
  assert fixed == fields - free


def test_the_names_of_evaluations_may_differ_but_not_what_they_are():
  """So that a run of old, whose evaluations have the names k0 and k8, goes on."""
  named = changed(evals={"coarse": EvalConfig(0), "fine": EvalConfig(8)})
  assert difference(changed(eval_top_k=(0, 8)), named) == []
  other = changed(evals={"coarse": EvalConfig(0), "fine": EvalConfig(8, "random")})
  assert difference(named, other) == ["evals: 'top_k 0, top_k 8' -> 'top_k 0, top_k 8 random'"]


# Evaluations by name


def test_a_config_of_old_names_its_evaluations_by_their_top_k():
  expected = {"k0": EvalConfig(0), "k4": EvalConfig(4)}
  assert Config(eval_top_k=(0, 4)).evals == expected
  assert from_json('{"eval_top_k": [0, 4]}').evals == expected
  assert "eval_top_k" not in to_json(Config(eval_top_k=(0, 4)))


def test_the_command_line_sets_one_evaluation_or_names_all_anew():
  base = Config(evals={"coarse": EvalConfig(0), "fine": EvalConfig(8)})
  fine = parse(base, "mine.py", ["--evals.fine.top-k", "4", "--evals.fine.selection", "gumbel"])
  assert fine.evals == {"coarse": EvalConfig(0), "fine": EvalConfig(4, "gumbel")}
  assert parse(base, "mine.py", ["--eval-top-k", "2"]).evals == {"k2": EvalConfig(2)}


@pytest.mark.parametrize(
  ("evals", "message"),
  [
    ({}, r"evals is \[\], but it must be one or more evaluations with names of letters"),
    ({"a b": EvalConfig()}, "evals is .* but it must be one or more evaluations with names"),
    ({"fine": EvalConfig(-1)}, "evals.fine.top_k is -1, but it must be a whole number from 0"),
    ({"fine": EvalConfig("8")}, "evals.fine.top_k is '8', but its type must be int"),
    ({"fine": 8}, "evals is .* but its type must be dict"),
  ],
)
def test_evaluations_that_cannot_be_are_refused(evals, message):
  with pytest.raises(UserError, match=message):
    check(changed(evals=evals))


# Values

ALLOWED = {
  "seed": [0, 2**32 - 1],
  "label_smoothing": [0.0, 0.999],
  "ema_decay": [0.0, 0.999],
  "eval_top_k": [(0,), (8, 0)],
  "data__min_scale": [1.0],
  "data__max_shift": [0, 223],
  "data__randaugment_layers": [0],
  "data__randaugment_magnitude": [0.0, 30.0],
  "data__randaugment_deviation": [0.0, 3.0],
  "data__color_jitter": [(0.0, 0.0, 0.0, 0.0), (2.0, 2.0, 2.0, 0.5)],
  "data__erasing": [0.0, 1.0],
  "data__mixup": [0.0, 2.0],
  "data__cutmix": [0.0, 2.0],
  "data__eval_crop": [1.0],
  "data__workers": [0],
  "data__mean": [(0.0, -1.0, 2.0)],
  "optim__warmup_epochs": [0.0, 0.5],
  "optim__warmup_min_steps": [0, 100],
  "optim__warmup_bias_lr": [0.0, 0.1],
  "optim__warmup_momentum": [None, 0.0, 0.8],
  "optim__final_factor": [0.0, 1.0],
  "optim__step_epochs": [(), (0.0, 3.0)],
  "optim__momentum": [0.0],
  "optim__weight_decay": [0.0],
  "optim__clip_norm": [None, 0.1],
  "optim__clip_epsilon": [0.0, 1e-6],
  "ema_ramp": [0.0, 2000.0],
  "epochs": [0.01, 3],
}
REFUSED = {
  "seed": [-1, 2**32],
  "epochs": [0.0, -1.0, math.nan, math.inf],
  "batch_size": [0, -8],
  "accumulation_steps": [0, -1],
  "eval_batch_size": [0],
  "eval_every_epochs": [0.0],
  "eval_top_k": [(), (-1,), (0, -1)],
  "label_smoothing": [-0.1, 1.0, math.nan],
  "ema_decay": [-0.1, 1.0],
  "fsdp": [0],
  "check_replicas_every": [-1],
  "log_every": [0],
  "model__width": [0.0, -1.0, math.inf, math.nan],
  "data__image_size": [0],
  "data__min_scale": [0.0, 1.1],
  "data__max_shift": [-1, 224],
  "data__randaugment_layers": [-1],
  "data__randaugment_magnitude": [-1.0, 31.0, math.nan],
  "data__randaugment_deviation": [-1.0, 31.0, math.nan],
  "data__color_jitter": [(-0.1, 0.0, 0.0, 0.0), (0.0, math.inf, 0.0, 0.0), (0.0, 0.0, 0.0, 0.6)],
  "data__erasing": [-0.1, 1.1, math.nan],
  "data__mixup": [-0.1, math.inf],
  "data__cutmix": [-0.1, math.nan],
  "data__eval_crop": [0.0, 1.1],
  "data__mean": [(0.0, 0.0, math.nan)],
  "data__std": [(1.0, 1.0, 0.0), (1.0, math.nan, 1.0), (math.inf, 1.0, 1.0)],
  "data__threads": [0],
  "data__workers": [-1],
  "data__prefetch": [0],
  "data__synthetic_examples": [0],
  "data__synthetic_classes": [0],
  "optim__learning_rate": [0.0, -0.1, math.nan, math.inf],
  "optim__warmup_epochs": [-1.0, math.nan],
  "optim__warmup_min_steps": [-1],
  "optim__warmup_bias_lr": [-0.1, math.nan],
  "optim__warmup_momentum": [-0.1, 1.0, math.nan],
  "optim__clip_epsilon": [-1e-6, math.nan],
  "ema_ramp": [-1.0, math.inf],
  "optim__final_factor": [-0.1, 1.1, math.nan],
  "optim__step_epochs": [(-1.0,), (math.nan,)],
  "optim__step_factor": [0.0, -1.0],
  "optim__momentum": [-0.1, 1.0],
  "optim__beta2": [-0.1, 1.0],
  "optim__weight_decay": [-1e-4, math.nan],
  "optim__clip_norm": [0.0, -1.0],
  "checkpoint__every_epochs": [0.0],
  "checkpoint__keep_latest": [0],
}


@pytest.mark.parametrize("name", ALLOWED)
def test_the_ends_of_a_range_are_allowed(name):
  for value in ALLOWED[name]:
    check(changed(**{name: value}))


def test_images_in_blocks_need_an_even_side():
  check(changed(data__space_to_depth=True))
  with pytest.raises(UserError, match=r"data.image_size is 223, but data.space_to_depth needs"):
    check(changed(data__space_to_depth=True, data__image_size=223))


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_out_of_range_is_refused(name):
  for value in REFUSED[name]:
    with pytest.raises(UserError, match=rf"^{name.replace('__', '.')} is .*, but it must be"):
      check(changed(**{name: value}))


@pytest.mark.parametrize("steps", ["10", "10:", "5:4", "0:3", "1:2:3", "-1:3", "a:b", "1.0:2", " "])
def test_steps_to_profile_are_two_numbers(steps):
  with pytest.raises(UserError, match=r"profile_steps is .*, but it must be empty, or the first"):
    check(changed(profile_steps=steps))


def test_the_last_step_is_profiled_too():
  check(changed(profile_steps="10:15"))
  assert list(profile_range("10:15")) == [10, 11, 12, 13, 14, 15]
  assert list(profile_range("7:7")) == [7]
  assert list(profile_range("")) == []


def test_a_warm_up_longer_than_the_run_is_refused():
  check(changed(epochs=5.0, optim__warmup_epochs=5.0))
  message = "optim.warmup_epochs is 5.0, but the run has 4.5 epochs: choose a shorter warm-up or"
  with pytest.raises(UserError, match=message):
    check(changed(epochs=4.5, optim__warmup_epochs=5.0))


def test_an_optimizer_is_one_of_three_or_a_function_of_a_module():
  for name in ("sgd", "optax.contrib:muon"):
    check(changed(optim__name=name))
  for name in ("", "adam", "optax.contrib", "a:b:c"):
    with pytest.raises(UserError, match=r"^optim.name is .*, but it must be sgd, adamw, lamb, or"):
      check(changed(optim__name=name))


def test_every_number_has_a_rule():
  """A new field comes with its range, or is known to have none that `check` could tell."""
  # The network's own, and what a function of another module takes.
  elsewhere = {f"model.{n}" for n in ("top_k", "dropout", "stochastic_depth")}
  elsewhere |= {"model.batch_norm_group_size", "optim.options"}
  numbers = {
    name for name, kind in field_types(Config).items() if {int, float} & set(types_in(kind))
  }
  assert numbers - elsewhere == {name.replace("__", ".") for name in REFUSED}


def types_in(kind) -> list:
  return [kind, *(each for inner in typing.get_args(kind) for each in types_in(inner))]


def field_types(kind, prefix=""):
  found = {}
  for name, inner in typing.get_type_hints(kind).items():
    nested = dataclasses.is_dataclass(inner)
    found |= field_types(inner, f"{name}.") if nested else {prefix + name: inner}
  return found


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"batch_size": "64"}, "batch_size is '64', but its type must be int"),
    ({"batch_size": 64.0}, "batch_size is 64.0, but its type must be int"),
    ({"batch_size": True}, "batch_size is True, but its type must be int"),
    ({"epochs": "3"}, "epochs is '3', but its type must be float"),
    ({"run_dir": None}, "run_dir is None, but its type must be str"),
    ({"eval_top_k": 8}, r"eval_top_k is 8, but its type must be tuple\[int, ...\]"),
    ({"eval_top_k": [0, 8]}, r"eval_top_k is \[0, 8\], but its type must be tuple"),
    (
      {"data__mean": (0.5, 0.5)},
      r"data.mean is \(0.5, 0.5\), but its type must be tuple\[float, f",
    ),
    ({"data__flip": 1}, "data.flip is 1, but its type must be bool"),
    ({"optim__schedule": "cosin"}, r"optim.schedule is 'cosin', .* Literal\['cosine', 'step',"),
    ({"optim__clip_norm": "1"}, r"optim.clip_norm is '1', but its type must be float \| None"),
    ({"model": "resnet18"}, "model is 'resnet18', but its type must be ModelConfig"),
  ],
)
def test_a_value_of_a_wrong_type_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    check(changed(**fields))


def test_a_whole_number_serves_where_a_fraction_may_stand():
  check(changed(epochs=3, optim__learning_rate=1, optim__clip_norm=1, data__mean=(0, 1, 0)))
