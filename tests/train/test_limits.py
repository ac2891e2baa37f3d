"""Values of options that are numbers, but that no run can have: refused by name, at once."""

import dataclasses

import pytest

from pst_jax import limits
from pst_jax.errors import UserError
from train.config import Config, DataConfig, OptimConfig
from train.config_values import check
from train.schema import CheckpointConfig, EvalConfig

HUGE = 99_999_999_999_999_999_999


def config(**fields):
  return dataclasses.replace(Config(), **fields)


def data(**fields):
  return config(data=DataConfig(**fields))


def optim(**fields):
  return config(optim=OptimConfig(**fields))


ABSURD = {
  "epochs of 1e308": lambda: config(epochs=1e308),
  "epochs of 1e18": lambda: config(epochs=1e18),
  "batch_size": lambda: config(batch_size=HUGE),
  "eval_batch_size": lambda: config(eval_batch_size=HUGE),
  "eval_every_epochs": lambda: config(eval_every_epochs=1e-320),
  "evals.k99999999999999999999.top_k": lambda: config(eval_top_k=(HUGE,)),
  "evals.fine.top_k": lambda: config(evals={"fine": EvalConfig(HUGE)}),
  "log_every": lambda: config(log_every=HUGE),
  "fsdp": lambda: config(fsdp=HUGE),
  "profile_steps": lambda: config(profile_steps=f"1:{HUGE}"),
  "checkpoint.every_epochs": lambda: config(checkpoint=CheckpointConfig(every_epochs=1e-320)),
  "checkpoint.keep_latest": lambda: config(checkpoint=CheckpointConfig(keep_latest=HUGE)),
  "data.image_size": lambda: data(image_size=1_000_000),
  "data.threads": lambda: data(threads=HUGE),
  "data.workers": lambda: data(workers=HUGE),
  "data.prefetch": lambda: data(prefetch=HUGE),
  "data.synthetic_examples": lambda: data(synthetic_examples=HUGE),
  "data.synthetic_classes": lambda: data(synthetic_classes=HUGE),
  "data.eval_crop": lambda: data(eval_crop=1e-9),
  "data.mixup": lambda: data(mixup=1e-300),
  "data.cutmix": lambda: data(cutmix=1e300),
  "data.randaugment_layers": lambda: data(randaugment_layers=HUGE),
  "optim.learning_rate": lambda: optim(learning_rate=1e-320),
  "optim.weight_decay": lambda: optim(weight_decay=1e300),
  "optim.clip_norm": lambda: optim(clip_norm=1e-320),
  "data.std": lambda: data(std=(1e-320, 1.0, 1.0)),
  "data.mean": lambda: data(mean=(1e300, 0.0, 0.0)),
  "optim.step_epochs": lambda: optim(step_epochs=(1e300,)),
}


@pytest.mark.parametrize("option", ABSURD)
def test_an_absurd_value_is_refused_by_name(option):
  with pytest.raises(UserError, match=f"^{option.split()[0]} is .*, but it must be"):
    check(ABSURD[option]())


@pytest.mark.parametrize("value", [0, 0.001, 0.2, 1, 1000])
def test_alpha_may_be_zero_or_a_number_that_float32_can_use(value):
  check(data(mixup=value, cutmix=value))


@pytest.mark.parametrize("value", [1.5, "3", None, float("nan")])
def test_what_is_no_whole_number_is_in_no_such_range(value):
  assert not limits.IMAGE_SIZE.allows(value)
