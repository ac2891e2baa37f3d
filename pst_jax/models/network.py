"""What every classification network is: feature maps, a head, and the options that all take."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from pst_jax.layers import ConvNorm, Layer
from pst_jax.layers.conv_norm import pytorch_conv_init
from pst_jax.layers.pst import PSTLayer

HEAD_FEATURES = 1280
# One pixel of the last stage is this many pixels of the image.
STRIDE = {"imagenet": 32, "small": 8}


def scale_width(features: int, width: float, multiple: int = 8) -> int:
  """`features * width`, rounded to a multiple and never 0."""
  return max(multiple, round(features * width / multiple) * multiple)


class Head(Layer):
  """ConvNorm 1x1 to `features` (None: none), mean over the map, dropout, linear layer."""

  num_classes: int
  features: int | None
  dropout: float
  kernel_init: Callable = pytorch_conv_init

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    train: bool,
    positions: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch num_classes"]:
    if self.features is not None:
      fields = {"kernel_init": self.kernel_init, **self.shared}
      x = ConvNorm(self.features, name="conv", **fields)(x, train)
    x = jnp.mean(x, axis=(1, 2), dtype=self.param_dtype)
    if train and self.dropout:
      x = _drop(x, self.dropout, self.make_rng("dropout"), positions)
    # The last layer runs in the wide type: it costs nothing and its output goes into the loss.
    linear = nn.Dense(
      self.num_classes, dtype=self.param_dtype, param_dtype=self.param_dtype, name="linear"
    )
    return linear(x)


def _drop(x, rate, key, positions):
  """Dropout (Srivastava et al., 2014) whose mask depends on an example's position alone."""
  positions = jnp.arange(x.shape[0]) if positions is None else positions
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
  keep = jax.vmap(lambda each: jax.random.bernoulli(each, 1 - rate, x.shape[1:]))(keys)
  return jnp.where(keep, x / (1 - rate), 0)


class Network(PSTLayer, kw_only=True):
  """Base of the classification networks; a subclass sets up `head` and defines `maps`.

  Attributes:
    num_classes: length of the logits.
    family: whose network it is; decides the names that `convert` uses.
    top_k, selection, coarse_implementation: see `PSTLayer`.
    dropout: rate before the last layer; needs `rngs={"dropout": key}` in training.
    stem: `imagenet`; `small` keeps four times the resolution, for images of about 32 pixels.
    width: multiplies every number of channels, rounded to multiples of 8, inside PST of 32.
    remat: recompute the inside of each stage in the backward pass.
    remat_policy: what is kept of it all the same, one of `REMAT_POLICIES`.
  """

  num_classes: int
  family: str
  dropout: float = 0.0
  stem: Literal["imagenet", "small"] = "imagenet"
  width: float = 1.0
  remat: bool = False
  remat_policy: Literal["nothing", "convolutions"] = "nothing"

  def maps(
    self, images: Float[Array, "batch height width 3"], train: bool
  ) -> tuple[dict[str, Float[Array, "batch h w c"]], Float[Array, "batch h w c"]]:
    """The named feature maps, and the map that the head takes."""
    raise NotImplementedError

  def __call__(
    self,
    images: Float[Array, "batch height width 3"],
    train: bool = False,
    positions: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch num_classes"]:
    """Logits in float32 (float64 if that is the dtype).

    Args:
      images: normalised images; any size from 32 pixels (small stem: 8), odd ones too.
      train: batch statistics and dropout; needs `mutable=["batch_stats"]`.
      positions: of the images in the batch that they are a part of, so that dropout is the same for
        a batch in parts as for the whole; None: 0, 1, ...

    Raises:
      ValueError: images too small, top_k beyond the coarse tokens, batch no multiple of group_size.
    """
    return self.head(self._checked_maps(images, train)[1], train, positions)

  def features(
    self, images: Float[Array, "batch height width 3"], train: bool = False
  ) -> dict[str, Float[Array, "batch h w c"]]:
    """Maps `stage1` to `stage4` and, with PST, `pst`: `apply(..., method="features")`."""
    return self._checked_maps(images, train)[0]

  def _checked_maps(self, images, train):
    height, width, least = *images.shape[1:3], STRIDE[self.stem]
    if min(height, width) < least:
      raise ValueError(
        f"images of {height}x{width} pixels are too small for stem='{self.stem}': "
        f"give at least {least}x{least}"
      )
    return self.maps(images.astype(self.dtype), train)
