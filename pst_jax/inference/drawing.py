"""Pictures with their boxes and the names of what is on them. Needs OpenCV from version 5."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pst_jax.letterbox import Boxes, Image

# Pixels; the text on larger pictures than `LARGE` grows with them.
TEXT = 13
LINE = TEXT + 6
MOST_TEXT = 500
"""Letters of a text that are looked at: cutting one to its room takes the square of its length."""
LARGE = 960
PAPER, INK = (255, 255, 255), (30, 30, 34)
# Colours that tell classes apart, after P. Green-Armytage, "A colour alphabet and the limits of
# colour coding", 2010; those that are too pale to write on are left out.
COLOURS = (
  (0, 117, 220), (255, 0, 16), (43, 206, 72), (255, 164, 5), (153, 63, 0), (255, 0, 155),
  (0, 153, 143), (116, 10, 255), (194, 0, 136), (0, 92, 49), (240, 163, 255), (128, 128, 0),
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
  """A picture and what is to be drawn on it.

  Attributes:
    boxes: x1, y1, x2, y2 in its pixels.
    classes: of each box, which decides its colour.
    names: of each box, written at its corner.
  """

  image: Image
  caption: str = ""
  boxes: Boxes | Sequence = ()
  classes: Sequence[int] = ()
  names: Sequence[str] = ()


def draw_boxes(picture: Picture, scale: int = 1) -> Image:
  """A picture, enlarged, with its boxes and their names."""
  # Pixels stay pixels: the picture must not look like more than it is.
  image = np.ascontiguousarray(picture.image.repeat(scale, axis=0).repeat(scale, axis=1))
  boxes = np.asarray(picture.boxes, np.float64).reshape(-1, 4) * scale
  largest = max(image.shape[:2])
  size, thickness = max(TEXT, round(largest / LARGE * TEXT)), 1 + largest // 480
  marks = list(zip(boxes, picture.classes, picture.names, strict=True))
  # The first is the most important: it lies on top.
  for box, label, name in reversed(marks):
    left, top, right, bottom = np.round(box).astype(int).tolist()
    colour = COLOURS[label % len(COLOURS)]
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, thickness)
    if name:
      _name_tag(image, name, left, top, colour, size)
  return image


def _name_tag(image, name: str, left: int, top: int, colour: tuple[int, int, int], size) -> None:
  name = _drawable(name)
  width, height = min(_text_width(name, size) + 6, image.shape[1]), size + LINE - TEXT
  # Above the box where there is room, else inside; never outside the picture.
  x = min(max(left, 0), image.shape[1] - width)
  y = top - height if top >= height else max(top, 0)
  cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), colour, -1)
  write(image, name, x + 3, y, PAPER if sum(colour) < 400 else INK, size)


def write(
  image: Image,
  text: str,
  x: int,
  y: int,
  colour: tuple[int, int, int],
  size: int = TEXT,
  weight: int = 500,
  room: int | None = None,
) -> None:
  """One line of text of `size` pixels from (x, y) on, cut to `room` or where the image ends."""
  text = _drawable(text)
  room = image.shape[1] - x if room is None else room
  if _text_width(text, size, weight) > room:
    while text and _text_width(text + "...", size, weight) > room:
      text = text[:-1]
    text += "..."
  cv2.putText(image, text, (x, y + size + 1), colour, cv2.FontFace("sans"), size, weight)


def _drawable(text: str) -> str:
  # OpenCV ends with a segmentation fault at a lone surrogate, which the name of any file that is no
  # UTF-8 has, and any JSON can hold.
  return " ".join(text[:MOST_TEXT].encode(errors="replace").decode().split())


def _text_width(text: str, size: int, weight: int = 500) -> int:
  box = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, weight)
  return box[0] + box[2]


def encode_png(image: Image) -> bytes:
  """The bytes of a PNG file of an RGB image."""
  return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
