"""python -m train.plan CONFIG --topology v5e:16x16: what a training step needs on TPUs or GPUs."""

import dataclasses
import json
import os
import sys

from pst_jax.errors import UserError, run_command
from train.options import make_parser, parse, split

USAGE = """\
python -m train.plan CONFIG --topology v5e:16x16 [options] [overrides of the config]

Compiles the training step of a config with the real TPU compiler, on a machine without a TPU, and
prints whether it fits, what it computes and moves, and the least time that this takes on the chips.
Nothing runs. A ResNet-50 takes minutes to compile on two cores. Needs pip install
libtpu; for GPUs (h100:8, h200:4x8) nothing, but some figures are weaker there. A run's folder does
for CONFIG too.

  python -m train.plan configs/classification/synthetic.py --topology v5e:4x4 --batch-per-chip 256
  python -m train.plan synthetic --topology v5p:4x4x4 --model.name r50-cls-pst \\
    --model.dtype bfloat16 --search-batch
"""


def main(arguments: list[str]) -> None:
  path, options, overrides = split(_parser(), arguments)
  # Before jax is imported: with libtpu installed it would look for a TPU, and take minutes.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from pst_jax.files import check_free, write_output
  from train.config_values import check
  from train.planning import report, topologies
  from train.planning.compiling import compile_step, limit
  from train.run.folder import load

  if options.json:
    # Not after minutes of compiling.
    check_free(options.json, force=True)
  topology = topologies.find_slice(options.topology)
  config = parse(load(path), path, overrides)
  if options.batch_per_chip:
    size = options.batch_per_chip * topology.num_chips
    config = dataclasses.replace(config, batch_size=size)
  check(config)
  num_train, num_classes = _counts(config, options)
  devices = topologies.compiler_devices(topology)
  if options.search_batch:
    config = with_largest_batch(config, num_classes, topology, devices)
    num_train = max(num_train, config.batch_size)
  step = limit(compile_step(config, num_classes, num_train, devices), topology)
  print(report.text(step, topology))
  if options.operations and step.fits:
    print(report.by_kind(step, topology) + "\n")
    print(report.heaviest(step, topology, options.operations))
  if options.json:
    content = json.dumps(report.as_dict(step, topology), indent=2) + "\n"
    write_output(options.json, content.encode(), force=True)


def _parser():
  parser = make_parser("train.plan", usage=USAGE, allow_abbrev=False)
  parser.add_argument(
    "--topology", required=True, help="chip and shape, such as v5e:16x16 or h100:8"
  )
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
  parser.add_argument("--json", metavar="FILE", help="write all values there as well")
  parser.add_argument(
    "--operations",
    type=int,
    default=0,
    metavar="N",
    help="show what the step is made of, and its N longest operations",
  )
  return parser


def with_largest_batch(config, num_classes, topology, devices):
  from train.planning.compiling import compile_step, limit
  from train.planning.search import largest_that_fits
  from train.setup import smallest_batch_per_device

  unit = smallest_batch_per_device(config) * topology.num_devices

  def bytes_at(count):
    tried = dataclasses.replace(config, batch_size=count * unit)
    step = limit(compile_step(tried, num_classes, tried.batch_size, devices), topology)
    needed = step.memory.total if step.fits else step.needed
    images, verdict = count * unit // topology.num_chips, "fit" if step.fits else "do not fit"
    print(f"{images:,} images a chip {verdict}: {needed / 1e9:,.2f} GB a device", flush=True)
    return step.fits, needed

  start = max(1, config.batch_size // unit)
  usable = topology.chip.usable_bytes // topology.chip.devices
  count = largest_that_fits(bytes_at, start, usable)
  if count == 0:
    raise UserError(
      f"not even {unit // topology.num_chips} images a chip fit on {topology.name}: choose "
      "chips with more memory, model.remat, --fsdp, or a smaller model.batch_norm_group_size"
    )
  print()
  return dataclasses.replace(config, batch_size=count * unit)


# Training images and classes of data sets that are often planned with before they are prepared.
KNOWN = {"imagenet2012": (1_281_167, 1000)}


def _counts(config, options) -> tuple[int, int]:
  """Training images and classes."""
  asked = options.num_train, options.num_classes
  if all(asked):
    return asked
  from train.tasks import registry

  try:
    dataset = registry.find(config.task).open(config, splits=("train",))
    found = dataset.num_train, dataset.num_classes
  except UserError as error:
    found = KNOWN.get(config.data.dataset.partition("/")[0])
    if found is None or config.data.train_split != "train":
      raise UserError(f"{error} Or give --num-train and --num-classes") from None
    images, classes = found
    print(
      f"{config.data.dataset} is not in {config.data.data_dir}: the plan is for its {images:,} "
      f"training images and {classes:,} classes, unless --num-train and --num-classes say otherwise"
    )
  return asked[0] or found[0], asked[1] or found[1]


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
