"""The numbers behind the networks' names, for the Flax modules and their twins in PyTorch."""

import difflib
import math
from collections.abc import Iterable
from typing import NamedTuple

from pst_jax.errors import UserError

# name of the depth: (blocks of each stage, kind of block, channels of the neck)
DEPTHS = {
  "18": ((2, 2, 2, 2), "basic", 256),
  "26": ((2, 2, 2, 2), "bottleneck", 256),
  "34": ((3, 4, 6, 3), "basic", 256),
  "50": ((3, 4, 6, 3), "bottleneck", 256),
  "101": ((3, 4, 23, 3), "bottleneck", 512),
}
# The paper's "ResNet-18" has bottleneck blocks: it is what others call ResNet-26.
PAPER = {"18": "26", "50": "50", "101": "101"}

STAGE_FEATURES = (64, 128, 256, 512)
"""Of a ResNet: channels of the 3x3 convolutions of each stage; the stem has those of the first."""
HEAD_FEATURES = 1280
"""Of the classifiers with PST."""

# PST and area attention are half as wide inside as they are, and made of heads of 32 channels.
WHOLE_HEADS = 64

NUM_CLASSES = {"classification": 1000, "detection": 80}
"""Of ImageNet and of COCO, which the names stand for."""


def scale_width(features: int, width: float, multiple: int = 8) -> int:
  """`features * width`, rounded to a multiple and never 0."""
  return max(multiple, round(features * width / multiple) * multiple)


class Yolo11Size(NamedTuple):
  """What tells the sizes of a YOLO11 network apart.

  Attributes:
    scale: multiplies the channels 64, 128, 256, 512, 1024.
    max_channels: channels are cut to this before that.
    always_c3k: C3k units in every C3k2, not in the deep ones alone.
  """

  scale: float
  max_channels: int
  always_c3k: bool

  def features(self, width: float) -> list[int]:
    """The channels of a network of this size, times `width`."""
    channels = (min(c, self.max_channels) * self.scale for c in (64, 128, 256, 512, 1024))
    return [scale_width(math.ceil(c / 8) * 8, width) for c in channels]


YOLO11 = {
  "n": Yolo11Size(0.25, 1024, False),
  "s": Yolo11Size(0.5, 1024, False),
  "m": Yolo11Size(1.0, 512, True),
}


def check_name(name: str, known: Iterable[str]) -> None:
  """Raises UserError with the closest names for a network's name that is not known."""
  known = list(known)
  if name not in known:
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? All: " if close else "choose one of "
    raise UserError(f"model {name!r} is unknown: {hint}{', '.join(known)}")
