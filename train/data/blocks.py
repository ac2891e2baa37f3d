"""Images with their blocks of 2x2 pixels as channels (space to depth), for stems of stride 2.

Worker processes import this module: it must not import jax.
"""

import numpy as np
from jaxtyping import Shaped


def to_blocks(
  image: Shaped[np.ndarray, "*batch height width 3"],
) -> Shaped[np.ndarray, "*batch half_height half_width 12"]:
  """The same numbers; see `pst_jax.ops.conv2d_of_blocks`."""
  *batch, height, width, channels = image.shape
  split = image.reshape(*batch, height // 2, 2, width // 2, 2, channels)
  return np.moveaxis(split, -4, -3).reshape(*batch, height // 2, width // 2, 4 * channels)


def from_blocks(
  image: Shaped[np.ndarray, "*batch half_height half_width 12"],
) -> Shaped[np.ndarray, "*batch height width 3"]:
  """What `to_blocks` made of this."""
  *batch, height, width, channels = image.shape
  split = np.moveaxis(image.reshape(*batch, height, width, 2, 2, channels // 4), -3, -4)
  return split.reshape(*batch, 2 * height, 2 * width, channels // 4)
