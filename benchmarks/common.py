"""What the benchmarks share: options, the C allocator's settings, paired timing, images.

Small, because a benchmark of memory imports it: NumPy and OpenCV come with the images alone.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

ALLOCATOR = {
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**40),
  "MALLOC_TOP_PAD_": str(2**26),
}
"""Freed memory goes back to the system after every layer by default, and the page faults of taking
it again cost PyTorch's eager mode up to half of its time: both sides of a comparison keep it."""


def make_parser(description: str) -> argparse.ArgumentParser:
  """Options under a module's docstring as it is."""
  return argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )


def tune_allocator() -> None:
  """Starts this program again with `ALLOCATOR`, which glibc reads at its start, if need be."""
  if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **ALLOCATOR})


def seconds(run: Callable) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def measure(ours: Callable, theirs: Callable, repeats: int) -> list[float]:
  """Medians of (our seconds, their seconds, ratio) over paired, alternating repetitions."""
  for run in (ours, theirs):
    run()
  pairs = []
  for i in range(repeats):
    first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
    times = {first: seconds(first)}
    times[second] = seconds(second)
    pairs.append((times[ours], times[theirs], times[ours] / times[theirs]))
  return [statistics.median(column) for column in zip(*pairs, strict=True)]


def photograph(rng, height: int, width: int, ending: str = ".jpg") -> bytes:
  """Coloured clouds with grain: a file of the size and detail of ImageNet's and COCO's."""
  import cv2
  import numpy as np

  pixels = np.zeros((height, width, 3), np.float32)
  for cells in (4, 16, 64, 256):
    coarse = rng.standard_normal((cells, cells, 3), np.float32)
    pixels += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / cells**0.3
  pixels = np.clip(128 + 60 * pixels, 0, 255).astype(np.uint8)
  quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if ending == ".jpg" else []
  return cv2.imencode(ending, pixels, quality)[1].tobytes()
