"""A picture of what PST chose: for every head, its attention and the tokens that it opened.

Needs OpenCV from version 5 (extra `train`), which is imported when a picture is drawn.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from pst_jax.predict import Prediction

PANEL = 320
"""Side of a panel, in pixels."""
_GAP, _LINE, _TITLE = 20, 24, 28
_INK, _FAINT, _PAPER = (30, 30, 34), (110, 110, 118), (255, 255, 255)
_HOT = np.array([255, 96, 0], np.float32)
_BOX = (0, 210, 255)


def draw_overlay(
  image: UInt8[np.ndarray, "size size 3"],
  selected: Int[np.ndarray, "heads top_k"],
  attention: Float[np.ndarray, "heads tokens"],
  *,
  stride: int,
  title: str,
  predictions: Sequence[Prediction],
) -> UInt8[np.ndarray, "height width 3"]:
  """Draws one panel per head over the picture, beside the picture and its predictions.

  The redder a token, the larger its share of the head's coarse attention, on one scale for all
  heads. The tokens that the fine branch opened are framed, with their rank by score and the
  2x2 children that they open into.

  Args:
    image: RGB, as the network saw it.
    selected: see `TokenChoice`, of this image.
    attention: see `TokenChoice`, of this image.
    stride: pixels of the image to a side of a coarse token.
    title: name of the picture.
    predictions: the likeliest classes.

  Returns:
    The drawing, RGB.
  """
  picture, cell = _enlarged(image), stride * PANEL / len(image)
  heads, most = len(selected), float(attention.max())
  columns = next(c for c in range(math.ceil(math.sqrt(heads)), heads + 1) if heads % c == 0)
  rows = heads // columns
  list_top = _GAP + _TITLE + PANEL + _GAP
  legend_top = list_top + _LINE * len(predictions) + _GAP
  height = max(legend_top + 120, rows * (_TITLE + PANEL + _GAP)) + _GAP
  width = 2 * _GAP + PANEL + columns * (PANEL + _GAP) + _GAP
  canvas = np.full((height, width, 3), _PAPER, np.uint8)

  _text(canvas, title, _GAP, _GAP, PANEL, bold=True)
  canvas[_GAP + _TITLE :][:PANEL, _GAP : _GAP + PANEL] = picture
  for i, prediction in enumerate(predictions):
    name = prediction.name or f"class {prediction.index}"
    top = list_top + i * _LINE
    _text(canvas, f"{100 * prediction.probability:.1f} %", _GAP, top, 60)
    _text(canvas, name, _GAP + 68, top, PANEL - 68, bold=i == 0)
  _legend(canvas, legend_top, most)
  for head in range(heads):
    x = 2 * _GAP + PANEL + _GAP + head % columns * (PANEL + _GAP)
    y = _GAP + head // columns * (_TITLE + PANEL + _GAP)
    share = attention[head, selected[head]].sum()
    _text(canvas, f"head {head + 1}", x, y, 70, bold=True)
    framed = f"{100 * share:.0f} % of its attention is framed"
    _text(canvas, framed, x + 76, y, PANEL - 76, color=_FAINT)
    panel = _panel(picture, selected[head], attention[head] / most, cell)
    canvas[y + _TITLE :][:PANEL, x : x + PANEL] = panel
  return canvas


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
  """The bytes of a PNG file."""
  import cv2

  return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _enlarged(image):
  import cv2

  # Pixels of a tiny picture stay pixels: it must not look like more than the network saw.
  methods = ((3, cv2.INTER_NEAREST), (1, cv2.INTER_CUBIC), (0, cv2.INTER_AREA))
  method = next(m for least, m in methods if PANEL / len(image) >= least)
  return cv2.resize(image, (PANEL, PANEL), interpolation=method)


def _panel(picture, selected, heat, cell):
  import cv2

  columns = math.ceil(round(PANEL / cell, 6))
  gray = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
  position = np.minimum(np.arange(PANEL) / cell, columns - 1).astype(int)
  spread = heat.reshape(-1, columns)[position[:, None], position][..., None]
  panel = _tinted(80 + 0.55 * gray.astype(np.float32), spread)
  # The least important first, so that the best frames lie on top.
  for rank, token in reversed(list(enumerate(selected, start=1))):
    row, column = divmod(int(token), columns)
    _frame(panel, column * cell, row * cell, cell, str(rank))
  return panel


def _tinted(background, heat):
  return (background * (1 - 0.85 * heat) + _HOT * 0.85 * heat).clip(0, 255).astype(np.uint8)


def _frame(canvas, x, y, cell, rank=""):
  """A framed token with its 2x2 children and its rank."""
  import cv2

  left, top, right, bottom = (round(v) for v in (x, y, x + cell - 1, y + cell - 1))
  middle = (left + right) // 2, (top + bottom) // 2
  cv2.line(canvas, (middle[0], top), (middle[0], bottom), _BOX, 1)
  cv2.line(canvas, (left, middle[1]), (right, middle[1]), _BOX, 1)
  for inset, color in enumerate((_BOX, _BOX, _INK)):
    cv2.rectangle(canvas, (left + inset, top + inset), (right - inset, bottom - inset), color)
  if rank:
    cv2.rectangle(canvas, (left, top), (left + 8 + 7 * len(rank), top + 16), _BOX, -1)
    _text(canvas, rank, left + 4, top - 1, 40, size=12, bold=True)


def _legend(canvas, top, most):
  def say(text, x, y):
    _text(canvas, text, _GAP + x, top + y, PANEL - x, color=_FAINT)

  say("share of the head's coarse attention that", 0, 0)
  say("a token gets, mean over all queries", 0, 20)
  bar = canvas[top + 50 :][:14, _GAP + 34 :][:, : PANEL - 100]
  ramp = np.linspace(0, 1, bar.shape[1], dtype=np.float32)[None, :, None]
  bar[:] = _tinted(np.full(bar.shape, 150, np.float32), ramp)
  say("0 %", 0, 47)
  say(f"{100 * most:.1f} %", PANEL - 58, 47)
  _frame(canvas, _GAP, top + 84, 34)
  say("token opened into its 2x2 children,", 46, 80)
  say("numbered by score", 46, 100)


def _text(canvas, text, x, y, width, *, size=15, bold=False, color=_INK):
  """One line, cut to `width`, whose box of `_LINE` pixels has its upper left corner at (x, y)."""
  import cv2

  font, weight = cv2.FontFace("sans"), 600 if bold else 400
  text = text.replace("\n", " ")

  def is_too_long(text):
    box = cv2.getTextSize((0, 0), text, (0, 0), font, size, weight)
    return box[0] + box[2] > width

  if is_too_long(text):
    while text and is_too_long(text + "..."):
      text = text[:-1]
    text += "..."
  cv2.putText(canvas, text, (round(x), round(y) + size + 1), color, font, size, weight)
