"""What every detector is: a pyramid of three maps, a neck that fuses them, and the Detect head."""

from collections.abc import Sequence
from typing import Annotated

import jax.numpy as jnp

from pst_jax import ops
from pst_jax.errors import UserError
from pst_jax.layers import PST, ConvNorm
from pst_jax.layers.base import Map, Positions
from pst_jax.layers.csp import A2C2f, C3k2
from pst_jax.layers.pst import PSTLayer
from pst_jax.models.network import Images, Maps, Network, sides
from pst_jax.ranges import ABOVE_0, FRACTION

COARSEST_STRIDE = 32

Pyramid = Sequence[Map]


class Neck(PSTLayer):
  """Three maps fused from the coarsest to the finest, then back.

  Attributes:
    features: channels of the results, of the finest first.
    with_pst: on the way down PST fuses each map with the coarser one; else a C3k2 does
      (YOLO11's own neck).
    c3k: units of the C3k2 without PST, but for the last one, which always has C3k units.
  """

  features: tuple[int, int, int]
  with_pst: bool
  c3k: bool = False

  def setup(self):
    fine, middle, coarse = self.features
    if self.with_pst:
      self.fuse4 = self.make(PST, middle)
      self.fuse3 = self.make(PST, fine)
      self.mix4 = self.make(A2C2f, middle, 1, None)
    else:
      self.fuse4 = self.make(C3k2, middle, self.c3k)
      self.fuse3 = self.make(C3k2, fine, self.c3k)
      self.mix4 = self.make(C3k2, middle, self.c3k)
    self.down3 = self.make(ConvNorm, fine, 3, 2)
    self.down4 = self.make(ConvNorm, middle, 3, 2)
    self.mix5 = self.make(C3k2, coarse, True)

  def __call__(
    self, pyramid: Pyramid, train: bool, positions: Positions | None = None
  ) -> tuple[Map, ...]:
    p3, p4, p5 = pyramid
    fused4 = self._fuse(self.fuse4, p4, p5, p5, train, positions)
    fused3 = self._fuse(self.fuse3, p3, fused4, p4, train, positions)
    out4 = self.mix4(_join(self.down3(fused3, train), fused4), train)
    out5 = self.mix5(_join(self.down4(out4, train), p5), train)
    return fused3, out4, out5

  def _fuse(self, fuse, x, coarse, upper, train, positions):
    x = _join(ops.double_nearest(coarse), x)
    return fuse(x, upper, train, positions) if self.with_pst else fuse(x, train)


def _join(*maps):
  return jnp.concatenate(maps, axis=-1)


class Detector(Network, kw_only=True):
  """Base of the detectors; a subclass sets up `neck` and `head` and defines `pyramid`.

  BatchNorm's epsilon and momentum are those of the authors' detectors.
  """

  task = "detection"
  last_bias = ("head", "class0", "out", "bias")

  epsilon: Annotated[float, ABOVE_0] = 1e-3
  momentum: Annotated[float, FRACTION] = 0.97

  def pyramid(self, images: Images, train: bool) -> Pyramid:
    """The backbone's maps at strides 8, 16, 32."""
    raise NotImplementedError

  def __call__(
    self, images: Images, train: bool = False, positions: Positions | None = None
  ) -> tuple[Map, ...]:
    """Raw maps at strides 8, 16, 32 of 64 + num_classes channels, in float32 (or float64).

    `pst_jax.detection.decode` makes boxes and scores of them, `pst_jax.detection.loss` the loss.

    Args:
      images: RGB in 0..1; sides are multiples of 32.
      train: batch statistics; needs `mutable=["batch_stats"]`.
      positions: of the images, for random selection; see `Positions`.

    Raises:
      UserError: sides that are no multiples of 32, top_k beyond the coarse tokens, batch no
        multiple of group_size.
    """
    return self.head(self._fused(images, train, positions), train)

  def features(self, images: Images, train: bool = False) -> Maps:
    """The maps `p3`, `p4`, `p5` that the head takes: `apply(..., method="features")`."""
    return dict(zip(("p3", "p4", "p5"), self._fused(images, train, None), strict=True))

  def _fused(self, images, train, positions):
    height, width = sides(images)
    if not height or not width or height % COARSEST_STRIDE or width % COARSEST_STRIDE:
      raise UserError(
        f"images of {height}x{width} pixels were given, but a detector takes sides that are "
        f"multiples of {COARSEST_STRIDE}: letterbox them to such a size"
      )
    return self.neck(self.pyramid(images.astype(self.dtype), train), train, positions)
