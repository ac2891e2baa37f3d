"""Training images written smaller than they came: fewer bytes and pixels to decode in every epoch.

Two thirds and more of reading an ImageNet JPEG go into its entropy decoding, which takes as long as
it has bytes. So a lower quality and fewer pixels are what makes reading cheaper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from pst_jax.errors import ImageError
from pst_jax.letterbox import Image
from pst_jax.preprocessing import decode, resize
from train.data.prepare.writing import Split

QUALITY = 90
"""Of the JPEGs that are written, on libjpeg's scale of 0 to 100."""


@dataclass(frozen=True)
class Smaller:
  """A split whose images are made smaller as they are written; see `writing.Split`.

  `sizes`, by which the shards are cut, are those of the images as they came.
  """

  split: Split
  short_side: int

  @property
  def names(self) -> Sequence[str]:
    return self.split.names

  @property
  def sizes(self) -> Int[np.ndarray, " images"]:
    return self.split.sizes

  def example(self, index: int) -> dict[str, Any]:
    example = self.split.example(index)
    return example | {"image": smaller(example["image"], self.short_side)}


def smaller_training(splits: Mapping[str, Split], short_side: int | None) -> dict[str, Split]:
  """The splits, with smaller training images; evaluation keeps the images that others evaluate."""
  if short_side is None:
    return dict(splits)
  return dict(splits) | {"train": Smaller(splits["train"], short_side)}


def smaller(encoded: bytes, short_side: int) -> bytes:
  """An image as a JPEG whose short side has at most so many pixels, or as it came.

  It stays as it came where the JPEG would take more bytes, and where it cannot be decoded: what
  training does with such an image is for its options to say.
  """
  try:
    image = decode(encoded)
  except ImageError:
    return encoded
  height, width = image.shape[:2]
  scale = min(1.0, short_side / min(height, width))
  image = resize(image, round(height * scale), round(width * scale))
  return min(encoded, encode_jpeg(image, QUALITY), key=len)


def encode_jpeg(image: Image, quality: int) -> bytes:
  """An RGB image as a JPEG."""
  pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def builder_config(short_side: int | None) -> tfds.core.BuilderConfig | None:
  """What TFDS calls such a data set, `name/short_side_400`, and what its metadata say of it."""
  if short_side is None:
    return None
  return tfds.core.BuilderConfig(
    name=f"short_side_{short_side}",
    description=(
      f"Training images are JPEGs of quality {QUALITY} with short sides of at most {short_side}"
      " pixels, where these take fewer bytes than the originals. The other splits hold the"
      " originals. A network trained on these images has seen less detail than one trained on the"
      " originals: its accuracy may be lower, and by how much was not measured."
    ),
  )


def full_name(name: str, config: tfds.core.BuilderConfig | None) -> str:
  """What training calls the data set: `name` or `name/config`."""
  return f"{name}/{config.name}" if config else name
