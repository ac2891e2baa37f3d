"""What is evaluated: weights of a run or a file, with the config that says on which images."""

import dataclasses
import os

import jax

from pst_jax.commands import weights as places
from pst_jax.convert.weights import Weights
from pst_jax.inference import has_pst, preprocessing_of
from train import sharding
from train.agreement import meet
from train.config import Config, ConfigError, DataConfig, ModelConfig
from train.data import Dataset, open_dataset
from train.evaluation import evaluate
from train.run_folder import RunFolder
from train.setup import make_setup


def read(
  source: str | os.PathLike,
  step: str | None = None,
  kind: str | None = None,
  model: str | None = None,
) -> Weights:
  """The weights of a run folder, a folder that `convert` wrote, or a file.

  Args:
    source: the folder or file.
    step: of a run folder: latest, best, or a number; None: the latest.
    kind: params or ema; None: the moving average where there is one.
    model: the network, where it cannot be told.

  Raises:
    ConfigError: there are none, or they cannot be used.
  """
  try:
    which = None if step is None else places.parse_step(step)
    ema = None if kind is None else kind == "ema"
    return places.read(source, model=model, step=which, ema=ema)
  except (ValueError, OSError) as error:
    raise ConfigError(str(error)) from None


def make_config(
  source: str | os.PathLike, weights: Weights, top_k: list[int] | None, changes: dict
) -> Config:
  """The config of the run, or one made of the weights' metadata, with changes.

  Args:
    source: where the weights were read.
    weights: they decide the network.
    top_k: to evaluate with; None: the config's, or 0 alone where there is no PST.
    changes: {"data.eval_split": "test", "eval_batch_size": 8}.

  Raises:
    ConfigError: no data set is known, or a fine branch is asked of a network without PST.
  """
  run = RunFolder(source)
  config = run.read_config() if run.config.is_file() else _config_of(source, weights, changes)
  if not has_pst(weights.variables["params"]):
    if any(top_k or ()):
      raise ConfigError(
        f"top_k is {max(top_k)}, but {weights.metadata.model} has no PST module whose fine branch "
        "could open tokens: leave --top-k out"
      )
    top_k = (0,)
  data = {n.removeprefix("data."): v for n, v in changes.items() if n.startswith("data.")}
  data = dataclasses.replace(config.data, **data)
  return dataclasses.replace(
    config,
    # Training plays no part: the data may have no split for it, and the images another size.
    data=dataclasses.replace(data, train_split=data.eval_split, max_shift=0),
    eval_batch_size=changes.get("eval_batch_size", config.eval_batch_size),
    eval_top_k=config.eval_top_k if top_k is None else tuple(top_k),
  )


def _config_of(source: str | os.PathLike, weights: Weights, changes: dict) -> Config:
  if "data.dataset" not in changes:
    raise ConfigError(
      f"{source} does not say which data set it is for: give --dataset NAME, and with --data-dir "
      "the folder that holds it"
    )
  metadata = weights.metadata
  try:
    facts = preprocessing_of(metadata)
  except ValueError as error:
    raise ConfigError(f"{source}: {error}") from None
  return Config(
    model=ModelConfig(
      metadata.model,
      top_k=metadata.top_k,
      stem=metadata.options["stem"],
      width=metadata.options["width"],
    ),
    data=DataConfig(
      image_size=facts["image_size"],
      eval_crop=facts["eval_crop"],
      mean=tuple(facts["mean"]),
      std=tuple(facts["std"]),
      synthetic_classes=metadata.options["num_classes"],
    ),
  )


def open_data(weights: Weights, config: Config) -> Dataset:
  """The data set of `config`.

  Raises:
    ConfigError: it cannot be read, or has another number of classes than the weights.
  """
  dataset = open_dataset(config.data)
  count = weights.metadata.options["num_classes"]
  if count != dataset.num_classes:
    raise ConfigError(
      f"the weights have {count} classes, but dataset {config.data.dataset} has "
      f"{dataset.num_classes}: give the data set that they were trained for with --dataset"
    )
  return dataset


def notes(weights: Weights, config: Config, dataset: Dataset) -> list[str]:
  """Sentences about what was taken for granted."""
  found, facts = [], weights.metadata
  if facts.preprocessing is None:
    found.append("The weights say nothing of preprocessing: torchvision's for ImageNet is taken.")
  pairs = zip(facts.class_names or (), dataset.class_names or (), strict=False)
  for index, (own, theirs) in enumerate(pairs):
    if own != theirs:
      # Other spellings may mean the same; another order would make the accuracy worthless.
      found.append(
        f"Class {index} is {own!r} to the weights and {theirs!r} to dataset {config.data.dataset}: "
        "classes are compared by their numbers."
      )
      break
  return found


def evaluate_weights(
  weights: Weights, config: Config, dataset: Dataset
) -> dict[int, dict[str, float]]:
  """Evaluates on all devices; see `evaluation.evaluate`.

  Args:
    weights: of the network that `config.model` names.
    config: see `make_config`.
    dataset: see `open_data`.

  Raises:
    ConfigError: the images are too small, or a top_k is too large; a damaged image.
  """
  setup = make_setup(config, dataset.num_classes, dataset.num_train, for_training=False)
  meet(setup.mesh)
  variables = jax.device_put(weights.variables, sharding.replicated(setup.mesh))
  return evaluate(setup, variables, dataset)
