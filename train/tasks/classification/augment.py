"""Augmentation on the device, inside the step: random erasing, mixup, CutMix.

What happens to an example depends on the step's key and the example's place in the global batch
alone, not on how the batch is spread over devices and micro-batches. Images are mixed with their
neighbour in the batch (0 with 1, 2 with 3): the order of the data is random already, and both are
on the same device.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from pst_jax.inference.predictor import normalize
from pst_jax.models.network import sides
from train.tasks.classification.config import DataConfig
from train.tasks.classification.loss import Targets, unmixed

# What torchvision.transforms.RandomErasing draws from by default.
ERASED_AREA = (0.02, 0.33)
ERASED_RATIO = (0.3, 3.3)
ATTEMPTS = 10


def prepare(
  batch: dict, key: jax.Array, config: DataConfig, dtype
) -> tuple[Float[Array, "batch height width 3"], Targets]:
  """Normalised and augmented images, and what the network is to say of them.

  Args:
    batch: "image" uint8 [batch, height, width, 3], or with its blocks of 2x2 pixels as 12
      channels, then and afterwards; "label", and "position": each example's place in
      the global batch.
    key: of the step.
  """
  images = normalize(batch["image"], config.mean, config.std, dtype)
  labels = batch["label"]
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["position"])
  erase_keys, mix_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  if config.erasing:
    images = erase(images, erase_keys, config.erasing)
  if not (config.mixup or config.cutmix):
    return images, unmixed(labels)
  images, share = mix(images, mix_keys, config.mixup, config.cutmix)
  return images, Targets(labels, neighbours(labels), share)


def erase(
  images: Float[Array, "batch height width 3"], keys: jax.Array, probability: float
) -> Float[Array, "batch height width 3"]:
  """Random erasing (arXiv 1708.04896): one box of an image becomes 0, the mean of all images.

  The box is drawn as torchvision does: 2 to 33 % of the area, height / width from 0.3 to 3.3, up to
  ten attempts to find one that is smaller than the image in both directions.
  """
  height, width = sides(images)

  def box(key):
    which, area, ratio, top, left = jax.random.split(key, 5)
    share = jax.random.uniform(area, (ATTEMPTS,), minval=ERASED_AREA[0], maxval=ERASED_AREA[1])
    area = height * width * share
    log_ratio = jnp.log(jnp.array(ERASED_RATIO))
    ratio = jnp.exp(
      jax.random.uniform(ratio, (ATTEMPTS,), minval=log_ratio[0], maxval=log_ratio[1])
    )
    rows, columns = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    chosen = fits[first] & (jax.random.uniform(which) < probability)
    rows, columns = (jnp.where(chosen, each[first], 0) for each in (rows, columns))
    top = jnp.floor(jax.random.uniform(top) * (height - rows + 1))
    left = jnp.floor(jax.random.uniform(left) * (width - columns + 1))
    return top, top + rows, left, left + columns

  return jnp.where(_inside(jax.vmap(box)(keys), images), 0, images)


def mix(
  images: Float[Array, "batch height width 3"], keys: jax.Array, mixup: float, cutmix: float
) -> tuple[Float[Array, "batch height width 3"], Float[Array, "batch"]]:
  """Images with their neighbours mixed in, and the share that is their own.

  Mixup (arXiv 1710.09412) is a weighted mean, CutMix (arXiv 1905.04899) takes a box from the
  neighbour. The share is drawn from Beta(alpha, alpha), for each example anew; with both alphas
  above 0, each example takes one of the two with equal chances, as in timm.

  Args:
    images: an even number of them.
    keys: one for each image.
    mixup: alpha; 0: none.
    cutmix: alpha; 0: none.
  """
  height, width = sides(images)
  chance_of_cutmix = 0.5 if mixup and cutmix else float(cutmix > 0)

  def draw(key):
    which, share, row, column = jax.random.split(key, 4)
    cuts = jax.random.uniform(which) < chance_of_cutmix
    alpha = jnp.where(cuts, cutmix, mixup)
    share = jax.random.beta(share, alpha, alpha)
    # A box of the neighbour's share, around any pixel, cut off at the edges of the image.
    rows, columns = (jnp.sqrt(1 - share) * side for side in (height, width))
    row = jnp.floor(jax.random.uniform(row) * height)
    column = jnp.floor(jax.random.uniform(column) * width)
    box = (*_clipped(row, rows, height), *_clipped(column, columns, width))
    pixels = (box[1] - box[0]) * (box[3] - box[2])
    return cuts, box, jnp.where(cuts, 1 - pixels / (height * width), share)

  cuts, box, share = jax.vmap(draw)(keys)
  others = neighbours(images)
  cut = jnp.where(_inside(box, images), others, images)
  weight = share[:, None, None, None]
  blend = (weight * images + (1 - weight) * others).astype(images.dtype)
  return jnp.where(cuts[:, None, None, None], cut, blend), share


def _clipped(centre, length, side):
  start = jnp.floor(centre - length / 2)
  return jnp.clip(start, 0, side), jnp.clip(start + jnp.floor(length), 0, side)


def neighbours(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """Each pair (0 and 1, 2 and 3) the other way round."""
  return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _inside(box, images) -> Bool[Array, "batch height width channels"]:
  """Whether a pixel lies in its image's box (top, bottom, left, right), the ends not included."""
  _, height, width, channels = images.shape
  block = sides(images)[0] // height
  top, bottom, left, right = (each[:, None, None, None] for each in box)
  channel = jnp.arange(channels)
  row = block * jnp.arange(height)[:, None, None] + channel // (3 * block)
  column = block * jnp.arange(width)[:, None] + channel // 3 % block
  return (row >= top) & (row < bottom) & (column >= left) & (column < right)
