"""A trained network as a function of plain images: uint8 in, logits out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from pst_jax.convert.metadata import Metadata
from pst_jax.convert.weights import Weights
from pst_jax.fold import fold_batch_norm
from pst_jax.models import Network

IMAGENET = {"eval_crop": 0.875, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""What weights that say nothing of their preprocessing are taken to expect: torchvision's."""
_IMAGE_SIZE = {"imagenet": 224, "small": 32}


def normalize(
  images: UInt8[Array, "batch height width 3"], mean: Sequence[float], std: Sequence[float], dtype
) -> Float[Array, "batch height width 3"]:
  """(images / 255 - mean) / std, computed in float32."""
  wide = images.astype(jnp.promote_types(dtype, jnp.float32))
  scale = 1 / (255 * jnp.array(std, wide.dtype))
  return (wide * scale - jnp.array(mean, wide.dtype) / jnp.array(std, wide.dtype)).astype(dtype)


def preprocessing_of(metadata: Metadata) -> dict:
  """{"image_size", "eval_crop", "mean", "std"} of the weights, or ImageNet's if they say none.

  Raises:
    ValueError: values that no image can be prepared with.
  """
  if metadata.preprocessing is None:
    return {"image_size": _IMAGE_SIZE[metadata.options["stem"]], **IMAGENET}
  facts = metadata.preprocessing
  numbers_are_possible = (
    0 < facts["eval_crop"] <= 1
    and all(map(math.isfinite, facts["mean"]))
    and all(0 < value < math.inf for value in facts["std"])
  )
  if not numbers_are_possible:
    raise ValueError(
      f"the preprocessing in the metadata of the weights cannot be ({facts}): eval_crop must be "
      "above 0 and at most 1, mean finite, std above 0"
    )
  return facts


class TokenChoice(NamedTuple):
  """What the attention of PST did with the coarse tokens of each image.

  Attributes:
    selected: tokens that each head opened, the highest score first; row * width + column.
    attention: share of its coarse attention that each head gives to each token, as the mean over
      all queries; sums to 1 over the tokens.
  """

  selected: Int[Array, "batch heads top_k"]
  attention: Float[Array, "batch heads tokens"]


@dataclass(frozen=True, eq=False)  # identity: the variables have no hash
class Classifier:
  """A network with its BatchNorm folded in, and what its images need.

  `logits` and `explained_logits` are pure functions (variables, images) for `jax.jit`.

  Attributes:
    network: with its `top_k`.
    variables: of the network.
    preprocessing: see `preprocessing_of`.
  """

  network: Network
  variables: dict
  preprocessing: dict

  @classmethod
  def from_weights(cls, weights: Weights, *, top_k: int | None = None) -> "Classifier":
    """The network of `weights`.

    Args:
      weights: of any network.
      top_k: coarse tokens of the fine branch; None: as many as the weights were trained with.

    Raises:
      ValueError: a fine branch was asked of a network that has none, or a value cannot be.
    """
    top_k = weights.metadata.top_k if top_k is None else top_k
    if top_k and not has_pst(weights.variables["params"]):
      raise ValueError(
        f"top_k is {top_k}, but {weights.metadata.model} has no PST module whose fine branch could "
        "open tokens: leave top_k out"
      )
    preprocessing = preprocessing_of(weights.metadata)
    return cls(*fold_batch_norm(weights.network(top_k=top_k), weights.variables), preprocessing)

  def logits(
    self, variables: dict, images: UInt8[Array, "batch height width 3"]
  ) -> Float[Array, "batch num_classes"]:
    """Logits of RGB images that were cropped, but not normalised."""
    return self.network.apply(variables, self._normalized(images))

  def explained_logits(
    self, variables: dict, images: UInt8[Array, "batch height width 3"]
  ) -> tuple[Float[Array, "batch num_classes"], TokenChoice]:
    """`logits`, and what PST attended to; only for a network with PST and top_k > 0."""
    images = self._normalized(images)
    logits, updates = self.network.apply(variables, images, mutable=["intermediates"])
    (seen,) = _attention_modules(updates["intermediates"])
    (queries,), (keys,), (selected,) = seen["queries"], seen["keys"], seen["selected"]
    scores = jnp.einsum("bnhd,bmhd->bhnm", queries, keys) / jnp.sqrt(queries.shape[-1])
    attention = jnp.mean(jax.nn.softmax(scores, axis=-1), axis=2)
    return logits, TokenChoice(selected, attention)

  def _normalized(self, images):
    facts = self.preprocessing
    return normalize(images, facts["mean"], facts["std"], self.network.dtype)


def has_pst(params: Mapping) -> bool:
  """Whether parameters are of a network with PST, which alone has a fine branch."""
  return any(
    name == "gate_kernel" or (isinstance(child, Mapping) and has_pst(child))
    for name, child in params.items()
  )


def _attention_modules(intermediates: Mapping) -> Iterator[Mapping]:
  if "selected" in intermediates:
    yield intermediates
  else:
    for child in intermediates.values():
      yield from _attention_modules(child)
