"""What is evaluated: weights of a run or a file, with the config that says on which images."""

import argparse
import dataclasses
import os
from typing import Any

import jax

from pst_jax import hub
from pst_jax.buckets import is_url
from pst_jax.convert.io import Weights
from pst_jax.errors import UserError
from pst_jax.inference.predictor import has_pst
from train import schema, sharding
from train.data import Dataset
from train.evaluation.evaluator import measure, metrics_of
from train.processes.consistency import barrier
from train.run.folder import RunFolder
from train.schema import EvalConfig
from train.setup import make_eval_setup
from train.tasks import registry


def run_config(source: str | os.PathLike) -> schema.Config | None:
  """The config of a run folder; None for other weights; UserError if it cannot be used."""
  # A run's folder is nowhere else; files and folders of weights are.
  if hub.is_address(source) or (is_url(source) and not os.fspath(source).startswith("gs://")):
    return None
  run = RunFolder(source)
  return run.read_config() if run.has_config() else None


def make_config(
  options: argparse.Namespace, config: schema.Config | None, weights: Weights
) -> schema.Config:
  """The config to evaluate with.

  Args:
    options: of the command; what was not given stays as it is.
    config: of the run; None: it is made of the weights' metadata.
    weights: they decide the network.

  Raises:
    UserError: no data set is known, or a fine branch is asked of a network without PST.
  """
  top_k, selections = options.top_k, options.selection
  if config is None:
    if options.dataset is None:
      raise UserError(
        f"{options.source} does not say which data set it is for: give --dataset NAME, and with "
        "--data-dir the folder that holds it"
      )
    config = registry.find(weights.metadata.task).config_of(weights.metadata)
  if not has_pst(weights.variables["params"]):
    if any(top_k or ()):
      raise UserError(
        f"top_k is {max(top_k)}, but {weights.metadata.model} has no PST module whose fine branch "
        "could open tokens: leave --top-k out"
      )
    top_k, selections = (0,), None
  names = ("dataset", "data_dir", "image_size", "eval_crop", "mean", "std")
  given = {"eval_split": options.split, **{name: getattr(options, name) for name in names}}
  data = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items() if v is not None}
  for name in set(data) - set(vars(config.data)):
    raise UserError(f"data.{name} is no option of the task {config.task}: leave it out")
  return dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, **data),
    eval_batch_size=config.eval_batch_size if options.batch_size is None else options.batch_size,
    evals=_evals(config.evals, top_k, selections),
  )


def _evals(
  evals: dict[str, EvalConfig], top_k: list[int] | None, selections: list[str] | None
) -> dict[str, EvalConfig]:
  """Every top_k with every rule; the rule plays no part where top_k is 0."""
  if top_k is None and selections is None:
    return evals
  if top_k is None:
    top_k = [each.top_k for each in evals.values()]
  if selections is None:
    return schema.evals_of(tuple(top_k))
  rules = [(k, rule) for k in top_k for rule in (selections if k else selections[:1])]
  return {f"k{k}-{rule.replace(':', '.')}": EvalConfig(k, rule) for k, rule in rules}


def open_data(weights: Weights, config: schema.Config) -> Dataset:
  """The data set of `config`.

  Raises:
    UserError: it cannot be read, or has another number of classes than the weights.
  """
  dataset = registry.find(config.task).open(config, splits=("eval",))
  count = weights.metadata.options["num_classes"]
  if count != dataset.num_classes:
    raise UserError(
      f"the weights have {count} classes, but dataset {config.data.dataset} has "
      f"{dataset.num_classes}: give the data set that they were trained for with --dataset"
    )
  return dataset


def assumptions(weights: Weights, config: schema.Config, dataset: Dataset) -> list[str]:
  """Sentences about what was taken for granted."""
  found, facts = [], weights.metadata
  if facts.preprocessing is None and config.task == "classification":
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
  weights: Weights, config: schema.Config, dataset: Dataset
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
  """Evaluates on all devices; returns what `evaluator.measure` and `evaluate` return.

  Raises:
    UserError: the images are too small, or a top_k is too large; a damaged image.
  """
  setup = make_eval_setup(config, dataset.num_classes)
  barrier(setup.mesh)
  place = sharding.replicated(setup.mesh)
  # `device_put` would compare each array over the processes, by a rule to which NaN is unequal.
  variables = jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, place, lambda part: x[part]), weights.variables
  )
  totals = measure(setup, variables, dataset)
  return totals, metrics_of(setup, totals)
