"""python -m train.show CONFIG: draws training images as the network sees them."""

import contextlib
import dataclasses
import os
import sys

from pst_jax.errors import UserError, run_command
from train.options import make_parser, parse, split

USAGE = """\
python -m train.show CONFIG --images 16 --output grid.png [options] [overrides of the config]

Draws the first images of a run's training, cropped, augmented and mixed as the network gets them,
with their boxes or classes. Nothing is trained or changed. A run's folder does for CONFIG too.

  python -m train.show digits --output digits.png
  python -m train.show imagenet_r50_cls_pst --images 32 --step 1000 --data.mixup 0.2
"""


def main(arguments: list[str]) -> None:
  path, options, overrides = split(_parser(), arguments)
  # Drawing needs no accelerator, and must not wait for one that a run uses. Before jax is imported,
  # which checking a config of detection does.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from pst_jax.files import check_free, write_output
  from pst_jax.inference.drawing import encode_png
  from train.config_values import check
  from train.data.drawing import draw_grid
  from train.run.folder import load

  if options.images < 1 or options.step < 0:
    raise UserError("--images must be 1 or more, and --step 0 or more")
  check_free(options.output, force=options.force)
  config = parse(load(path), path, overrides)
  check(config)
  grid = draw_grid(training_pictures(config, options.images, options.step))
  write_output(options.output, encode_png(grid), force=options.force)
  print(f"{options.output}: {options.images} images, {grid.shape[1]} x {grid.shape[0]} pixels")


def _parser():
  parser = make_parser("train.show", usage=USAGE, allow_abbrev=False)
  add = parser.add_argument
  add("--images", type=int, default=16, metavar="N", help="how many to draw (default: 16)")
  add("--step", type=int, default=0, metavar="N", help="the step that they belong to (default: 0)")
  add("--output", default="grid.png", metavar="FILE", help="the PNG (default: grid.png)")
  add("--force", action="store_true", help="replace a file that exists")
  return parser


def training_pictures(config, count: int, first_step: int) -> list:
  """The first images of a step, and of those after it, as `pst_jax.inference.drawing.Picture`s.

  Raises:
    UserError: the data are not there, or damaged.
  """
  import jax.numpy as jnp
  import numpy as np

  from train.data import train_batches
  from train.step import augmentation_key, step_key
  from train.tasks import registry

  task = registry.find(config.task)
  dataset = task.open(config, ("train",))
  # No more is read ahead than is drawn.
  data = dataclasses.replace(config.data, workers=0)
  batches = train_batches(
    dataset, data, seed=config.seed, batch_size=config.batch_size, first_step=first_step
  )
  pictures, step = [], first_step
  with contextlib.closing(batches):
    while len(pictures) < count:
      batch = {**next(batches), "position": np.arange(config.batch_size)}
      key = augmentation_key(step_key(config.seed, step))
      images, targets = task.inputs(batch, key, config, jnp.float32)
      pictures += task.pictures(_pixels(images, data), targets, dataset.class_names)
      step += 1
  return pictures[:count]


def _pixels(images, data):
  """The inverse of the normalisation, to 8 bits."""
  import numpy as np

  from train.data.blocks import from_blocks

  if data.space_to_depth:
    images = from_blocks(np.asarray(images))
  levels = 255 * (np.asarray(images) * np.array(data.std) + np.array(data.mean))
  return np.clip(np.round(levels), 0, 255).astype(np.uint8)


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
