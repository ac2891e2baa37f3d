"""A picture of what PST chose: for every head, its attention and the tokens that it opened."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int

from pst_jax.inference.drawing import Image, Picture, draw_boxes, write

PANEL = 320
"""Side of a panel, in pixels; twice that where a token would be smaller than `_LEAST_CELL`."""
_LEAST_CELL, _LEAST_CELL_WITH_CHILDREN = 16, 32
_GAP, _LINE, _TITLE, _LEGEND = 20, 24, 28, 140
_INK, _FAINT, _PAPER = (30, 30, 34), (110, 110, 118), (255, 255, 255)
_HOT = np.array([255, 96, 0], np.float32)
_BOX = (0, 210, 255)


def draw_overlay(
  picture: Picture,
  choices: Sequence[tuple[Int[np.ndarray, "heads top_k"], Float[np.ndarray, "heads tokens"]]],
  *,
  strides: Sequence[int],
  lines: Sequence[tuple[str, str]],
) -> Image:
  """Draws one panel per head over the picture, beside the picture and what was predicted of it.

  The redder a token, the larger its share of the head's coarse attention, on one scale for all
  heads of a PST module. The tokens that the fine branch opened are framed, with their rank by score
  and, where there is room, the 2x2 children that they open into.

  Args:
    picture: a square as the network saw it, its name as the caption, and boxes that were found,
      which are numbered.
    choices: (selected, attention) of this picture for each PST module, see `TokenChoice`.
    strides: pixels of the picture to a side of a coarse token, for each PST module.
    lines: what was predicted, as a number and words, the most important first.

  Returns:
    The drawing, RGB.
  """
  sections = [
    _section(picture.image, *choice, stride)
    for choice, stride in zip(choices, strides, strict=True)
  ]
  left = _summary(picture, lines)
  right = _stacked(sections)
  height = _GAP + max(len(left), len(right)) + _GAP
  canvas = _paper(height, 4 * _GAP + left.shape[1] + right.shape[1])
  canvas[_GAP:][: len(left), _GAP:][:, : left.shape[1]] = left
  canvas[_GAP:][: len(right), -_GAP - right.shape[1] : -_GAP] = right
  return canvas


def _paper(height, width):
  return np.full((height, width, 3), _PAPER, np.uint8)


def _stacked(sections):
  height = sum(map(len, sections)) + _GAP * (len(sections) - 1)
  canvas, top = _paper(height, max(section.shape[1] for section in sections)), 0
  for section in sections:
    canvas[top:][: len(section), : section.shape[1]] = section
    top += len(section) + _GAP
  return canvas


def _summary(picture, lines):
  """The picture with its name and its boxes, what was predicted of it, and the legend."""
  list_top = _TITLE + PANEL + _GAP
  legend_top = list_top + _LINE * len(lines) + _GAP
  canvas = _paper(legend_top + _LEGEND, PANEL)
  _text(canvas, picture.caption, 0, 0, PANEL, bold=True)
  enlarged = _enlarged(picture.image, PANEL)
  boxes = np.asarray(picture.boxes, np.float64) * PANEL / len(picture.image)
  # Names would hide a small picture.
  numbers = [str(number) for number in range(1, 1 + len(boxes))]
  marked = Picture(enlarged, "", boxes, picture.classes, numbers)
  canvas[_TITLE:][:PANEL] = draw_boxes(marked)
  for i, (number, words) in enumerate(lines):
    top = list_top + i * _LINE
    _text(canvas, number, 0, top, 60)
    _text(canvas, words, 68, top, PANEL - 68, bold=i == 0)
  _legend(canvas, legend_top)
  return canvas


def _section(image, selected, attention, stride):
  """The panels of all heads of one PST module."""
  heads, most, tokens = len(selected), float(attention.max()), math.ceil(len(image) / stride)
  side = PANEL if PANEL / tokens >= _LEAST_CELL else 2 * PANEL
  columns = next(c for c in range(math.ceil(math.sqrt(heads)), heads + 1) if heads % c == 0)
  rows = heads // columns
  canvas = _paper(
    _TITLE + rows * (_TITLE + side) + (rows - 1) * _GAP, columns * (side + _GAP) - _GAP
  )
  title = f"PST, {tokens}x{tokens} tokens of {stride} pixels: red is {100 * most:.1f} %"
  _text(canvas, title, 0, 0, canvas.shape[1], bold=True)
  enlarged = _enlarged(image, side)
  for head in range(heads):
    x = head % columns * (side + _GAP)
    y = _TITLE + head // columns * (_TITLE + side + _GAP)
    opened = selected[head][selected[head] >= 0]
    share = attention[head, opened].sum()
    _text(canvas, f"head {head + 1}", x, y, 70)
    framed = f"{100 * share:.0f} % of its attention is framed"
    _text(canvas, framed, x + 76, y, side - 76, color=_FAINT)
    cell = stride * side / len(image)
    panel = _panel(enlarged, opened, attention[head] / most, cell, tokens)
    canvas[y + _TITLE :][:side, x : x + side] = panel
  return canvas


def _enlarged(image, side):
  # Pixels of a tiny picture stay pixels: it must not look like more than the network saw.
  methods = ((3, cv2.INTER_NEAREST), (1, cv2.INTER_CUBIC), (0, cv2.INTER_AREA))
  method = next(m for least, m in methods if side / len(image) >= least)
  return cv2.resize(image, (side, side), interpolation=method)


def _panel(picture, selected, heat, cell, columns):
  gray = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
  position = np.minimum(np.arange(len(picture)) / cell, columns - 1).astype(int)
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
  """A framed token with its 2x2 children and its rank; a small one has the rank beside it."""
  left, top, right, bottom = (round(v) for v in (x, y, x + cell - 1, y + cell - 1))
  tag_left, has_room = left, cell >= _LEAST_CELL_WITH_CHILDREN
  if has_room:
    middle = (left + right) // 2, (top + bottom) // 2
    cv2.line(canvas, (middle[0], top), (middle[0], bottom), _BOX, 1)
    cv2.line(canvas, (left, middle[1]), (right, middle[1]), _BOX, 1)
  for inset, color in enumerate((_BOX, _BOX, _INK)):
    cv2.rectangle(canvas, (left + inset, top + inset), (right - inset, bottom - inset), color)
  if not rank:
    return
  width = 8 + 7 * len(rank)
  if not has_room:
    tag_left = right + 1 if right + width < canvas.shape[1] else left - width - 1
  cv2.rectangle(canvas, (tag_left, top), (tag_left + width, top + 16), _BOX, -1)
  _text(canvas, rank, tag_left + 4, top - 1, 40, size=12, bold=True)


def _legend(canvas, top):
  def say(text, x, y):
    _text(canvas, text, x, top + y, PANEL - x, color=_FAINT)

  say("share of the head's coarse attention that", 0, 0)
  say("a token gets, mean over all queries", 0, 20)
  bar = canvas[top + 50 :][:14, 34 : PANEL - 66]
  ramp = np.linspace(0, 1, bar.shape[1], dtype=np.float32)[None, :, None]
  bar[:] = _tinted(np.full(bar.shape, 150, np.float32), ramp)
  say("0 %", 0, 47)
  say("red", PANEL - 58, 47)
  _frame(canvas, 0, top + 84, 34)
  say("token opened into its 2x2 children,", 46, 80)
  say("numbered by score", 46, 100)


def _text(canvas, text, x, y, width, *, size=15, bold=False, color=_INK):
  write(canvas, text, round(x), round(y), color, size, 600 if bold else 400, width)
