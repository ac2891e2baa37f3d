"""Images and their objects as a source lists them, and a count of what is wrong with them."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pst_jax.errors import UserError


@dataclass
class Object:
  """One object of an image.

  Attributes:
    box: x1, y1, x2, y2 as shares of the image's sides.
    label: index of its class.
    identity: its number in the source, or its place there.
    crowd: whether the box stands for a group of objects.
    area: in pixels; None: that of the outlines, or of the box where there are none.
    polygons: its outlines, x and y as shares.
  """

  box: tuple[float, float, float, float]
  label: int
  identity: int = 0
  crowd: bool = False
  area: float | None = None
  polygons: list[np.ndarray] = field(default_factory=list)


@dataclass
class LabelledImage:
  """An image of a split, known but not read yet.

  Attributes:
    name: unique in the split.
    image_id: likewise.
    num_bytes: of the file.
    size: height and width that the boxes were measured on; None: not known before it is read.
  """

  name: str
  image_id: int
  num_bytes: int
  size: tuple[int, int] | None
  objects: list[Object] = field(default_factory=list)


class Faults:
  """Counts what is wrong with boxes and images, and keeps an example of each kind.

  Args:
    source: what is read, for messages.
    skip: whether what is wrong is left out.

  Attributes:
    split: being read, for messages.
  """

  def __init__(self, source: object, *, skip: bool):
    self.source, self.skip, self.split = source, skip, "train"
    self.counts, self.examples = Counter(), {}

  def add(self, kind: str, example: str) -> None:
    self.counts[kind] += 1
    self.examples.setdefault(kind, f"{example} of the split {self.split}")

  def settle(self) -> None:
    """Prints what is left out.

    Raises:
      UserError: something is wrong, and is not to be skipped.
    """
    if not self.counts:
      return
    if not self.skip:
      summary = "; ".join(
        f"{kind} ({count:,}), such as {self.examples[kind]}" for kind, count in self.counts.items()
      )
      raise UserError(
        f"{self.source} has {summary}: mend them, or leave them out with --on-bad-box skip"
      )
    print(f"{self.source}: left out")
    for kind, count in self.counts.items():
      print(f"  {count:,} {kind}, such as {self.examples[kind]}")


def add_object(
  image: LabelledImage,
  found: Object,
  faults: Faults,
  tolerance: tuple[float, float],
  where: str,
) -> None:
  """Adds an object to an image, its box cut at the image's edges, unless the box is a fault.

  Args:
    tolerance: shares of width and height by which a box may stick out, as rounding leaves it.
    where: names the box, for the user.
  """
  kind = _fault_of(found.box, tolerance)
  found.box = tuple(min(max(float(each), 0.0), 1.0) for each in found.box)
  same = (found.label, found.crowd, found.box)
  if kind is None and any(same == (each.label, each.crowd, each.box) for each in image.objects):
    kind = "duplicate boxes"
  if kind:
    faults.add(kind, where)
  else:
    image.objects.append(found)


def _fault_of(box: tuple[float, ...], tolerance: tuple[float, float]) -> str | None:
  # Plain numbers, not arrays: COCO has 860,000 boxes.
  x1, y1, x2, y2 = box
  if not all(map(math.isfinite, box)):
    return "boxes that are no finite numbers"
  if not (x1 < x2 and y1 < y2):
    return "boxes without area"
  more_x, more_y = tolerance
  sticks_out = x1 < -more_x or y1 < -more_y or x2 > 1 + more_x or y2 > 1 + more_y
  if sticks_out or x1 >= 1 or y1 >= 1 or x2 <= 0 or y2 <= 0:
    return "boxes outside their image"
  return None


def pixel_tolerance(size: tuple[int, int]) -> tuple[float, float]:
  """One pixel, as shares of width and height."""
  return 1 / size[1], 1 / size[0]
