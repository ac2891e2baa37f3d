"""python -m train.evaluate RUN: accuracy of a trained run, with the fine branch off and on."""

import argparse
import dataclasses
import sys

from train.command import run_command
from train.distributed import add_options, from_options, joined
from train.run_folder import RunFolder


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m train.evaluate",
    description="Evaluates a checkpoint of a run on its evaluation split, every example once.",
  )
  parser.add_argument("run", help="the folder of the run, e.g. runs/digits")
  parser.add_argument(
    "--top-k",
    type=int,
    nargs="+",
    metavar="K",
    help="coarse tokens that the fine branch opens, one or more values; 0: coarse attention only "
    "(default: what the config of the run says)",
  )
  parser.add_argument(
    "--checkpoint",
    default="latest",
    metavar="WHICH",
    help="latest, best (by top-1), or the number of a step (default: latest)",
  )
  parser.add_argument("--split", help="another split of the data set (default: the config's)")
  parser.add_argument("--data-dir", help="where the data set is now (default: the config's)")
  add_options(parser)
  options = parser.parse_args(arguments)
  folder = RunFolder(options.run)
  config = _overridden(folder.read_config(), options)
  which = _which(parser, options.checkpoint)
  with joined(from_options(options), saves_on_sigterm=False):
    table = _table(evaluate_run(config, folder, which))
    import jax

    if jax.process_index() == 0:
      print(table)


def _overridden(config, options):
  data = {"eval_split": options.split, "data_dir": options.data_dir}
  data = {name: value for name, value in data.items() if value is not None}
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
  if options.top_k is None:
    return config
  return dataclasses.replace(config, eval_top_k=tuple(options.top_k))


def _which(parser, text):
  if text in ("latest", "best"):
    return text
  if not text.isdigit():
    parser.error(f"--checkpoint is {text!r}, but it must be latest, best or the number of a step")
  return int(text)


def evaluate_run(config, folder, which="latest") -> dict[int, dict[str, float]]:
  """Restores a checkpoint and evaluates it; see `evaluation.evaluate`.

  Args:
    config: of the run; its `eval_top_k` and data may differ from the trained ones.
    folder: the RunFolder.
    which: "latest", "best" or a step.

  Raises:
    ConfigError: no checkpoint, or one that is damaged.
  """
  # Late, so that --help answers at once.
  import jax

  from train.agreement import meet
  from train.checkpoint import Checkpoints
  from train.config import ConfigError
  from train.data import open_dataset
  from train.evaluation import evaluate
  from train.setup import make_setup

  dataset = open_dataset(config.data)
  setup = make_setup(config, dataset.num_classes, dataset.num_train, for_training=False)
  meet(setup.mesh)
  with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
    restored = checkpoints.restore(setup.abstract_state, which)
  if restored is None:
    raise ConfigError(f"{folder.path} has no checkpoint yet: train it first")
  if jax.process_index() == 0:
    print(
      f"{config.model.name}, step {restored.step} of {folder.path}, split {config.data.eval_split}"
    )
  return evaluate(setup, restored.state.eval_variables, dataset)


def _table(accuracy):
  lines = ["top_k   top-1 %   top-5 %     loss   images"]
  for top_k, values in accuracy.items():
    lines.append(
      f"{top_k:5d} {100 * values['top1']:9.2f} {100 * values['top5']:9.2f} {values['loss']:8.4f} "
      f"{values['count']:8.0f}"
    )
  return "\n".join(lines)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
