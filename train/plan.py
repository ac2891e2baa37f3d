"""python -m train.plan CONFIG --topology v5e:16x16: what a training step needs on TPUs."""

import argparse
import dataclasses
import json
import os
import sys

from train.command import run_command

USAGE = """\
python -m train.plan CONFIG --topology v5e:16x16 [options] [overrides of the config]

Compiles the training step of a config with the real TPU compiler, on a machine without a TPU, and
prints whether it fits, what it computes and moves, and the least time that this takes on the chips.
Nothing runs. A ResNet-50 takes minutes to compile on two cores. Needs pip install
'pst_jax[tpu-plan]'.

  python -m train.plan configs/synthetic.py --topology v5e:4x4 --batch-per-chip 256
  python -m train.plan configs/synthetic.py --topology v5p:4x4x4 --model.name r50-cls-pst \\
    --model.dtype bfloat16 --search-batch
"""


def main(arguments: list[str]) -> None:
  if not arguments or arguments[0].startswith("-"):
    _parser().parse_args(arguments or ["--help"])
    _parser().error("the first argument must be a config file, such as configs/digits.py")
  options, overrides = _parser().parse_known_args(arguments[1:])
  # Before jax is imported: with libtpu installed it would look for a TPU, and take minutes.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from train import config as schema
  from train.__main__ import parse
  from train.output_file import check_output, write_output
  from train.planning import report, topologies
  from train.planning.compiling import compile_step

  if options.json:
    # Not after minutes of compiling.
    check_output(options.json, force=True)
  where = topologies.find_slice(options.topology)
  config = parse(schema.load_file(arguments[0]), arguments[0], overrides)
  if options.batch_per_chip:
    size = options.batch_per_chip * where.num_chips
    config = dataclasses.replace(config, batch_size=size)
  schema.check(config)
  num_train, num_classes = _counts(config, options)
  devices = topologies.compiler_devices(where)
  if options.search_batch:
    config = with_largest_batch(config, num_classes, where, devices)
    num_train = max(num_train, config.batch_size)
  step = compile_step(config, num_classes, num_train, devices)
  print(report.text(step, where))
  if options.operations and step.fits:
    print(report.heaviest(step, where, options.operations))
  if options.json:
    content = json.dumps(report.figures(step, where), indent=2) + "\n"
    write_output(options.json, content.encode(), force=True)


def _parser():
  parser = argparse.ArgumentParser(
    prog="python -m train.plan",
    usage=USAGE,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--topology", required=True, help="chip and shape, such as v5e:16x16")
  parser.add_argument(
    "--batch-per-chip",
    type=int,
    metavar="N",
    help="batch of N images a chip (default: the config's batch_size over all chips)",
  )
  parser.add_argument(
    "--search-batch",
    action="store_true",
    help="look for the largest batch that fits, to a sixteenth, and plan with it; compiles up to a "
    "dozen times",
  )
  parser.add_argument("--num-train", type=int, help="training images, if the data are not here")
  parser.add_argument("--num-classes", type=int, help="classes, if the data are not here")
  parser.add_argument("--json", metavar="FILE", help="write all figures there as well")
  parser.add_argument(
    "--operations", type=int, default=0, metavar="N", help="list the N longest operations as well"
  )
  return parser


def with_largest_batch(config, num_classes, where, devices):
  from train.config import ConfigError
  from train.gradients import smallest_share
  from train.planning.compiling import compile_step
  from train.planning.search import largest_that_fits

  unit = smallest_share(config) * where.num_devices

  def bytes_at(count):
    tried = dataclasses.replace(config, batch_size=count * unit)
    step = compile_step(tried, num_classes, tried.batch_size, devices)
    needed = step.memory.total if step.fits else step.needed
    share, verdict = count * unit // where.num_chips, "fit" if step.fits else "do not fit"
    print(f"{share:,} images a chip {verdict}: {needed / 1e9:,.2f} GB a device", flush=True)
    return step.fits, needed

  start = max(1, config.batch_size // unit)
  usable = where.chip.usable_bytes // where.chip.devices
  count = largest_that_fits(bytes_at, start, usable)
  if count == 0:
    raise ConfigError(
      f"not even {unit // where.num_chips} images a chip fit on {where.name}: choose chips with "
      "more memory, model.remat, --fsdp, or a smaller model.batch_norm_group_size"
    )
  print()
  return dataclasses.replace(config, batch_size=count * unit)


# Training images and classes of data sets that are often planned with before they are prepared.
KNOWN = {"imagenet2012": (1_281_167, 1000)}


def _counts(config, options) -> tuple[int, int]:
  """Training images and classes."""
  given = options.num_train, options.num_classes
  if all(given):
    return given
  from train.config import ConfigError
  from train.data import open_dataset

  try:
    dataset = open_dataset(config.data)
    found = dataset.num_train, dataset.num_classes
  except ConfigError as error:
    found = KNOWN.get(config.data.dataset) if config.data.train_split == "train" else None
    if found is None:
      raise ConfigError(f"{error} Or give --num-train and --num-classes") from None
    images, classes = found
    print(
      f"{config.data.dataset} is not in {config.data.data_dir}: the plan is for its {images:,} "
      f"training images and {classes:,} classes, unless --num-train and --num-classes say otherwise"
    )
  return given[0] or found[0], given[1] or found[1]


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
