"""Bytes that the loss of detection needs beside the maps, with and without many boxes.

    python -m benchmarks.detection_memory

XLA's own account of the compiled loss and its gradient; nothing is run. Maps of 640 x 640 pixels
have 8,400 anchors. The ratio at the end says what 100 boxes an image cost against 10.
"""

import argparse

import jax
import jax.numpy as jnp

from pst_jax import detection

MEGABYTE = 1e6


def temporary_bytes(batch: int, boxes: int, size: int, classes: int) -> int:
  """Bytes of the buffers inside the compiled gradient of the loss."""
  maps = [
    jax.ShapeDtypeStruct((batch, size // s, size // s, 4 * detection.BINS + classes), jnp.float32)
    for s in detection.STRIDES
  ]
  targets = detection.Targets(
    jax.ShapeDtypeStruct((batch, boxes, 4), jnp.float32),
    jax.ShapeDtypeStruct((batch, boxes), jnp.int32),
    jax.ShapeDtypeStruct((batch, boxes), jnp.bool_),
  )
  step = jax.jit(jax.grad(lambda maps, targets: detection.loss(maps, targets).total))
  return step.lower(maps, targets).compile().memory_analysis().temp_size_in_bytes


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--size", type=int, default=640)
  parser.add_argument("--classes", type=int, default=80)
  parser.add_argument("--boxes", type=int, nargs=2, default=(10, 100))
  options = parser.parse_args()
  anchors = sum((options.size // stride) ** 2 for stride in detection.STRIDES)
  maps = 4 * options.batch * anchors * (4 * detection.BINS + options.classes)
  print(f"{options.batch} images of {anchors} anchors, maps {maps / MEGABYTE:.0f} MB (float32)")
  found = []
  for boxes in options.boxes:
    found.append(temporary_bytes(options.batch, boxes, options.size, options.classes))
    print(f"{boxes:4} boxes an image: {found[-1] / MEGABYTE:.0f} MB inside the loss's gradient")
  print(f"ratio {found[1] / found[0]:.2f}")


if __name__ == "__main__":
  main()
