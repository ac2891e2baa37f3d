"""What every network is, and what every classifier is: feature maps, a head, and options."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from pst_jax.errors import UserError
from pst_jax.layers.base import Map, Positions
from pst_jax.layers.conv_norm import CONVOLUTION, IN_BLOCKS
from pst_jax.layers.norm import STATISTICS
from pst_jax.layers.pst import PSTLayer
from pst_jax.ranges import ABOVE_0, FRACTION, TRUE_OR_FALSE, WHOLE_FROM_1, one_of

Images = Float[Array, "batch image_height image_width 3"]
"""Or, where the first convolution has stride 2, [batch, height / 2, width / 2, 12]: the blocks of
2x2 pixels as channels, as `pst_jax.ops.conv2d_of_blocks` takes them."""
Maps = Mapping[str, Map]

# One pixel of the last stage is this many pixels of the image.
STRIDE = {"imagenet": 32, "small": 8}

REMAT_POLICIES = {
  # Least memory, and every convolution is computed twice.
  "nothing": jax.checkpoint_policies.nothing_saveable,
  # BatchNorm and activations are computed again: they cost next to nothing, but their results take
  # as much memory, and as long to write and read, as the convolutions' own.
  "convolutions": jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS),
}


def stage_class(stage: type[nn.Module], network: nn.Module) -> type[nn.Module]:
  """`stage`, whose call takes (x, train, ...), as `remat` and `remat_policy` of the network ask."""
  if not network.remat:
    return stage
  return nn.remat(stage, static_argnums=(2,), policy=REMAT_POLICIES[network.remat_policy])


def sides(images: Images) -> tuple[int, int]:
  """Height and width in pixels, of an image in blocks too."""
  block = 2 if images.shape[-1] == IN_BLOCKS else 1
  return block * images.shape[1], block * images.shape[2]


class Network(PSTLayer, kw_only=True):
  """Base of the networks.

  Attributes:
    num_classes: classes that are told apart.
    family: whose network it is; decides the names that `convert` uses.
    top_k, selection, coarse_implementation: see `PSTLayer`.
    width: multiplies every number of channels, rounded to multiples of 8, inside PST of 32.
    remat: recompute the inside of each stage in the backward pass.
    remat_policy: what is kept of it all the same, one of `REMAT_POLICIES`.
  """

  task: ClassVar[Literal["classification", "detection"]]
  """What its outputs are for."""
  last_bias: ClassVar[tuple[str, ...]]
  """Path to a parameter whose length is the number of classes."""

  num_classes: Annotated[int, WHOLE_FROM_1]
  family: str
  width: Annotated[float, ABOVE_0] = 1.0
  remat: Annotated[bool, TRUE_OR_FALSE] = False
  remat_policy: Annotated[Literal["nothing", "convolutions"], one_of(REMAT_POLICIES)] = "nothing"


class Classifier(Network, kw_only=True):
  """Base of the classification networks; a subclass sets up `head` and defines `maps`.

  Attributes:
    dropout: rate before the last layer; needs `rngs={"dropout": key}` in training.
    stem: `imagenet`; `small` keeps four times the resolution, for images of about 32 pixels.
  """

  task = "classification"
  last_bias = ("head", "linear", "bias")

  dropout: Annotated[float, FRACTION] = 0.0
  stem: Annotated[Literal["imagenet", "small"], one_of(STRIDE)] = "imagenet"

  def maps(self, images: Images, train: bool, positions: Positions | None) -> tuple[Maps, Map]:
    """The named feature maps, and the map that the head takes."""
    raise NotImplementedError

  def __call__(
    self, images: Images, train: bool = False, positions: Positions | None = None
  ) -> Float[Array, "batch num_classes"]:
    """Logits in float32 (float64 if that is the dtype).

    Args:
      images: normalised images; any size from 32 pixels (small stem: 8), odd ones too.
      train: batch statistics and dropout; needs `mutable=["batch_stats"]`.
      positions: of the images, for dropout and random selection; see `Positions`.

    Raises:
      UserError: images too small, top_k beyond the coarse tokens, batch no multiple of group_size.
    """
    return self.head(self._checked_maps(images, train, positions)[1], train, positions)

  def features(self, images: Images, train: bool = False) -> Maps:
    """Maps `stage1` to `stage4` and, with PST, `pst`: `apply(..., method="features")`."""
    return self._checked_maps(images, train, None)[0]

  def _checked_maps(self, images, train, positions):
    height, width, least = *sides(images), STRIDE[self.stem]
    if min(height, width) < least:
      raise UserError(
        f"images of {height}x{width} pixels are too small for stem='{self.stem}': "
        f"give at least {least}x{least}"
      )
    return self.maps(images.astype(self.dtype), train, positions)
