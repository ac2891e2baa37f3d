"""The largest and smallest values that an option, or a file, may ask for, as `ranges.Range`.

Beyond them nothing sensible happens: memory ends, a float32 becomes 0 or infinity, a counter of 32
bits wraps around. Refusing them by name is kinder than any of these.
"""

import numbers

from pst_jax.ranges import Range


def number(low: float, high: float) -> Range:
  """A number between two bounds, both included."""
  return Range(f"a number from {low:g} to {high:g}", lambda v: low <= v <= high)


def zero_or(low: float, high: float) -> Range:
  """Zero, or a number between two bounds: smaller ones would be zero in float32."""
  return Range(f"0, or a number from {low:g} to {high:g}", lambda v: v == 0 or low <= v <= high)


def whole(low: int, high: int) -> Range:
  """A whole number between two bounds, both included."""
  return Range(
    f"a whole number from {low:,} to {high:,}",
    lambda v: isinstance(v, numbers.Integral) and low <= v <= high,
  )


EPOCHS = number(1e-6, 1e6)
EPOCHS_OR_0 = zero_or(1e-6, 1e6)
STEPS = whole(1, 2**31 - 1)
STEPS_OR_0 = whole(0, 2**31 - 1)
EXAMPLES = whole(1, 2**31 - 1)
BATCH = whole(1, 2**20)
DEVICES = whole(1, 2**20)
CLASSES = whole(1, 2**20)
LAYERS = whole(0, 100)
KEPT = whole(1, 10_000)
THREADS = whole(1, 1024)
WORKERS = whole(0, 1024)
PREFETCH = whole(1, 1024)
TOP_K = whole(0, 2**16)
"""More than the coarse tokens of an image of 8192 pixels."""
IMAGE_SIZE = whole(1, 8192)
EVAL_CROP = number(0.1, 1)
"""The image is resized to image_size / eval_crop before the centre is cut out."""
WIDTH = number(1e-3, 1000)
STD = number(1e-6, 1e6)
CLIP_NORM = Range("a number from 1e-30", lambda v: v >= 1e-30)
RATE = number(1e-30, 1e6)
"""A learning rate, or a factor of one, that float32 holds."""
DECAY = zero_or(1e-30, 1e6)
BETA_ALPHA = zero_or(1e-3, 1000)
"""alpha of a Beta distribution; below, both of its logarithms are minus infinity in float32."""
