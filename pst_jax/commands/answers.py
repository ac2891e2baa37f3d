"""What `predict` says of an image, by the task of the network: classes, or boxes.

Imported when images are read: it needs OpenCV.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pst_jax import letterbox, preprocessing
from pst_jax.inference.drawing import Image, Picture
from pst_jax.inference.predictions import Detection, Prediction, detections, likeliest
from pst_jax.wording import safe

MOST_BESIDE_OVERLAY = 12
"""Boxes that are listed beside an overlay."""


class Prepared(NamedTuple):
  """An image as the network sees it, and as it was decoded.

  `place` is where the decoded picture lies in the other; None: it was cropped.
  """

  image: Image
  picture: Image
  place: letterbox.Letterbox | None = None


@dataclass(frozen=True)
class Classes:
  """The likeliest classes, `count` of them; lists have the most important first.

  Attributes:
    key: what the list is called in JSON.
    columns: of CSV, beside the image and the rank; `row` gives their values.
  """

  count: int

  key = "predictions"
  columns = ("index", "name", "probability")
  batch_size = 16

  def prepare(self, encoded: bytes, facts: dict) -> Prepared:
    """Decodes an image and prepares it as in the evaluation of a training run."""
    picture = preprocessing.decode(encoded)
    image = preprocessing.evaluation_crop(picture, facts["image_size"], facts["eval_crop"])
    return Prepared(image, picture)

  def find(self, told, names: Sequence[str] | None) -> list[Prediction]:
    """What there is on an image, as the network sees it, of what its predictor returned."""
    return likeliest(told, names, self.count)

  def on_picture(self, found: list[Prediction], prepared: Prepared) -> list[Prediction]:
    """`found` in the picture's own pixels."""
    return found

  def lines(self, found: list[Prediction]) -> Iterator[str]:
    """For the terminal."""
    for index, name, probability in found:
      yield f"{100 * probability:6.2f} %  {index:4d}  {safe(name or '')}"

  def beside(self, found: list[Prediction]) -> list[tuple[str, str]]:
    """A number and words, for the lines beside an overlay; boxes are numbered so on it."""
    return [(f"{100 * each.probability:.1f} %", _named(each)) for each in found]

  def row(self, each: Prediction) -> tuple:
    return each.index, each.name, f"{each.probability:.6g}"

  def drawn(self, image: Image, title: str, found: list[Prediction]) -> Picture:
    """An image with what was found on it."""
    return Picture(image, title)


class Boxes:
  """All boxes; the methods are those of `Classes`."""

  key = "detections"
  columns = ("index", "name", "score", "x1", "y1", "x2", "y2")
  batch_size = 4

  def prepare(self, encoded, facts):
    picture = preprocessing.decode_upright(encoded)
    place = letterbox.evaluation_geometry(*picture.shape[:2], facts["image_size"])
    return Prepared(letterbox.letterbox(picture, place), picture, place)

  def find(self, told, names):
    return detections(told, names)

  def on_picture(self, found: list[Detection], prepared):
    height, width = prepared.picture.shape[:2]
    boxes = np.array([each.box for each in found]).reshape(-1, 4)
    place = prepared.place
    scale, pad = (place.width / width, place.height / height), (place.left, place.top)
    moved = letterbox.map_back(boxes, scale, pad, height, width)
    return [each._replace(box=tuple(box)) for each, box in zip(found, moved.tolist(), strict=True)]

  def lines(self, found: list[Detection]):
    if not found:
      yield "no boxes"
    for index, name, score, box in found:
      corners = " ".join(f"{value:7.1f}" for value in box)
      yield f"{score:6.3f}  {corners}  {index:4d}  {safe(name or '')}"

  def beside(self, found: list[Detection]):
    shown = found[:MOST_BESIDE_OVERLAY]
    lines = [(str(i), f"{_named(each)} {each.score:.2f}") for i, each in enumerate(shown, start=1)]
    more = len(found) - len(shown)
    return [*lines, *([("", f"and {more} more")] if more else [])]

  def row(self, each: Detection):
    return each.index, each.name, f"{each.score:.6g}", *(f"{value:.2f}" for value in each.box)

  def drawn(self, image, title, found: list[Detection]):
    return Picture(
      image,
      title,
      boxes=[each.box for each in found],
      classes=[each.index for each in found],
      names=[f"{_named(each)} {each.score:.2f}" for each in found],
    )


def _named(each: Prediction | Detection) -> str:
  return each.name or f"class {each.index}"
