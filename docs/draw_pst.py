"""Draws docs/pst.svg, the picture of the module in the README: python docs/draw_pst.py"""

import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, FINE, COARSE, BOTH = "#22313f", "#2a78b5", "#c7702a", "#4f6d3a"
SELECTED = {(0, 2), (2, 1)}


def grid(axes, x, y, cells, size, color, marked=()):
  """A feature map as a grid whose marked cells are filled; (x, y) is its lower left corner."""
  for row in range(cells):
    for column in range(cells):
      filled = (row, column) in marked
      corner = x + column * size, y + (cells - 1 - row) * size
      face = "#f0c05a" if filled else "white"
      axes.add_patch(Rectangle(corner, size, size, fc=face, ec=color, lw=1.1))


def box(axes, x, y, width, text, color, height=0.62):
  style = {"boxstyle": "round,pad=0.04,rounding_size=0.1", "fc": "white", "ec": color, "lw": 1.6}
  axes.add_patch(FancyBboxPatch((x, y), width, height, **style))
  axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, fontsize=9.5)


def arrow(axes, start, end, color=INK, style="-", bend=0.0):
  line = {"color": color, "lw": 1.4, "linestyle": style, "connectionstyle": f"arc3,rad={bend}"}
  ends = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 2, "shrinkB": 2}
  axes.add_patch(FancyArrowPatch(start, end, **line, **ends))


def label(axes, x, y, text, color=INK, size=9, **options):
  axes.text(x, y, text, color=color, fontsize=size, **{"ha": "center", "va": "center"} | options)


def draw():
  figure, axes = plt.subplots(figsize=(10.6, 4.7))
  axes.set_xlim(-0.2, 14.4)
  axes.set_ylim(-0.55, 5.95)
  axes.axis("off")

  children = {(2 * r + i, 2 * c + j) for r, c in SELECTED for i in (0, 1) for j in (0, 1)}
  grid(axes, 0.3, 3.45, 4, 0.45, COARSE, SELECTED)
  label(axes, 1.2, 5.6, "coarse map U\nh x w tokens", COARSE)
  grid(axes, 0.1, 0.25, 8, 0.275, FINE, children)
  label(axes, 1.2, -0.2, "fine map X\n2h x 2w tokens", FINE)

  box(axes, 3.2, 4.3, 1.5, "k, v", COARSE)
  box(axes, 3.2, 1.05, 1.5, "q", FINE)
  arrow(axes, (2.15, 4.6), (3.15, 4.6), COARSE)
  arrow(axes, (2.35, 1.36), (3.15, 1.36), FINE)

  box(axes, 5.75, 4.3, 2.8, "coarse attention\nsoftmax(q k$^T$) v", BOTH, 0.8)
  arrow(axes, (4.75, 4.65), (5.7, 4.7), COARSE)
  arrow(axes, (4.5, 1.75), (6.1, 4.25), FINE)

  box(axes, 5.75, 2.55, 2.8, "score = mean(q) k$^T$\nkeep top k per head", BOTH, 0.8)
  arrow(axes, (4.6, 4.25), (5.7, 3.15), COARSE, "--")
  arrow(axes, (4.65, 1.7), (5.7, 2.8), FINE, "--")

  box(axes, 5.75, 0.65, 2.8, "gather their 2x2\nchildren of X, project", BOTH, 0.8)
  arrow(axes, (7.15, 2.5), (7.15, 1.52), BOTH, "--")
  arrow(axes, (2.4, 0.7), (5.7, 0.85), FINE, "--")

  box(axes, 9.3, 0.65, 2.0, "fine attention\nof q", BOTH, 0.8)
  arrow(axes, (8.6, 1.05), (9.25, 1.05), BOTH, "--")
  box(axes, 10.0, 3.2, 1.9, "gate", BOTH)
  arrow(axes, (8.6, 4.6), (10.3, 3.9), BOTH)
  arrow(axes, (10.4, 1.5), (10.8, 3.15), BOTH, "--")
  box(axes, 12.4, 3.2, 1.6, "+ position,\nproject", BOTH)
  arrow(axes, (11.95, 3.5), (12.35, 3.5), BOTH)
  arrow(axes, (4.1, 4.97), (13.1, 3.88), COARSE, "-", -0.17)
  label(axes, 9.6, 5.5, "position: depthwise 7x7 of v, resized x2", COARSE)
  arrow(axes, (13.2, 3.15), (13.2, 2.3), BOTH)
  label(axes, 13.2, 2.0, "fused map, 2h x 2w")

  arrow(axes, (8.9, -0.1), (9.7, -0.1))
  label(axes, 9.8, -0.1, "always: training and inference", ha="left")
  arrow(axes, (8.9, -0.42), (9.7, -0.42), INK, "--")
  label(axes, 9.8, -0.42, "fine branch: switched on with top_k > 0", ha="left")
  return figure


if __name__ == "__main__":
  matplotlib.rcParams["svg.hashsalt"] = "pst"  # the same file at every run
  target = pathlib.Path(__file__).with_name("pst.svg")
  draw().savefig(target, bbox_inches="tight", metadata={"Date": None})
  print(target)
