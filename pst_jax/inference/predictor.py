"""What every trained network is when it is used: plain images in, answers out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int, UInt8

from pst_jax import ops
from pst_jax.convert.formats.pickle_globals import printable
from pst_jax.convert.io import Weights
from pst_jax.convert.metadata import Metadata
from pst_jax.errors import UserError
from pst_jax.fold import fold_batch_norm
from pst_jax.limits import IMAGE_SIZE
from pst_jax.models import Network, task_of
from pst_jax.ranges import violations

Images = UInt8[Array, "batch height width 3"]


def normalize(
  images: Images, mean: Sequence[float], std: Sequence[float], dtype
) -> Float[Array, "batch height width 3"]:
  """(images / 255 - mean) / std, computed in float32; of several pixels in the channels each."""
  wide = images.astype(jnp.promote_types(dtype, jnp.float32))
  pixels = images.shape[-1] // 3
  mean, std = (jnp.tile(jnp.array(each, wide.dtype), pixels) for each in (mean, std))
  return (wide * (1 / (255 * std)) - mean / std).astype(dtype)


def require_possible(facts: Mapping, sizes_are_possible: bool, sizes: str) -> None:
  """Raises UserError unless preprocessing has possible sizes, and numbers to normalize with.

  `sizes` says in words what was asked of the sizes.
  """
  can_subtract = all(map(math.isfinite, facts["mean"]))
  can_divide = all(0 < x < math.inf for x in facts["std"])
  if not (sizes_are_possible and can_subtract and can_divide):
    raise UserError(
      f"the preprocessing in the metadata of the weights cannot be ({facts}): {sizes}, mean "
      "finite, std above 0"
    )


class TokenChoice(NamedTuple):
  """What the attention of a PST module did with the coarse tokens of each image.

  Attributes:
    selected: tokens that each head opened, the first choice first; row * width + column; -1: none.
      Where each query opens tokens of its own, those that most of them open.
    attention: share of its coarse attention that each head gives to each token, as the mean over
      all queries; sums to 1 over the tokens.
  """

  selected: Int[Array, "batch heads top_k"]
  attention: Float[Array, "batch heads tokens"]


@dataclass(frozen=True, eq=False)  # identity: the variables have no hash
class Predictor:
  """A network with its BatchNorm folded in, and what its images need; base of one class a task.

  `run` and `explain` are pure functions (variables, images) for `jax.jit`.

  Attributes:
    network: with its `top_k`.
    variables: of the network.
    preprocessing: how images are prepared: "image_size", "mean", "std", and what the task adds.
  """

  network: Network
  variables: dict
  preprocessing: dict

  task: ClassVar[str]

  def __post_init__(self):
    for violation in violations(self):
      raise UserError(
        f"{violation.name} is {violation.value!r}, but it must be {violation.expected}"
      )

  @classmethod
  def from_weights(
    cls,
    weights: Weights,
    *,
    top_k: int | None = None,
    selection: str | ops.Selection | None = None,
    image_size: int | None = None,
    **fields,
  ) -> Self:
    """The network of `weights`.

    Args:
      weights: of a network for this task.
      top_k: coarse tokens of the fine branch; None: as many as the weights were trained with.
      selection: the rule that picks them, see `pst_jax.ops.Selection`; a random one gets the same
        key for every batch; None: the one of the metadata, if it is one of `ops.SELECTIONS`.
      image_size: side of the images; None: the one of the metadata.
      **fields: further attributes of the class.

    Raises:
      UserError: the weights are of another task, a fine branch was asked of a network that has
        none, or a value cannot be.
    """
    facts = weights.metadata
    if task_of(facts.model) != cls.task:
      raise UserError(
        f"{facts.model} is a network for {task_of(facts.model)}, but one for {cls.task} is needed: "
        "give other weights"
      )
    top_k = facts.top_k if top_k is None else top_k
    if top_k and not has_pst(weights.variables["params"]):
      raise UserError(
        f"top_k is {top_k}, but {facts.model} has no PST module whose fine branch could open "
        "tokens: leave top_k out"
      )
    preprocessing = cls.preprocessing_of(facts)
    if image_size is not None:
      if not IMAGE_SIZE.allows(image_size):
        raise UserError(f"image_size is {image_size}, but it must be {IMAGE_SIZE.text}, in pixels")
      preprocessing = {**preprocessing, "image_size": image_size}
    selection = cls.recorded_rule(facts, top_k) if selection is None else selection
    network = weights.network(top_k=top_k, selection=selection)
    folded = fold_batch_norm(network, weights.variables)
    return cls(*folded, preprocessing, **fields)

  @staticmethod
  def recorded_rule(facts: Metadata, top_k: int) -> str:
    """The rule of the weights; a file may not choose what is imported and run."""
    if facts.selection in ops.SELECTIONS:
      return facts.selection
    if not top_k:
      return "top_k"  # no rule plays a part
    raise UserError(
      f"the weights were trained with the rule {printable(facts.selection)}, which is not one of "
      f"{', '.join(ops.SELECTIONS)}: if you know it, give it with --selection"
    )

  @staticmethod
  def preprocessing_of(metadata: Metadata) -> dict:
    """How images are prepared for weights; UserError for values that this cannot be done with."""
    raise NotImplementedError

  def run(self, variables: dict, images: Images) -> Any:
    """The answers for RGB images that were cropped or letterboxed, but not normalised."""
    return self.answers(self.network.apply(variables, self._normalized(images), rngs=self._rngs))

  def explain(self, variables: dict, images: Images) -> tuple[Any, tuple[TokenChoice, ...]]:
    """`run`, and what every PST module attended to, the one with the fewest tokens first.

    Only for a network with PST and top_k > 0.
    """
    images = self._normalized(images)
    outputs, updates = self.network.apply(
      variables, images, mutable=["intermediates"], rngs=self._rngs
    )
    seen = flatten_dict(updates["intermediates"])
    names = ("queries", "keys", "selected")
    modules = (path[:-1] for path in seen if path[-1] == "selected")
    choices = [_choice(*(seen[*module, name][0] for name in names)) for module in modules]
    return self.answers(outputs), tuple(sorted(choices, key=lambda each: each.attention.shape[-1]))

  @property
  def _rngs(self):
    # With a key, networks apply the rule to one image after the other: where it may need one.
    return {} if self.network.selection == "top_k" else {"selection": jax.random.key(0)}

  def _normalized(self, images):
    facts = self.preprocessing
    return normalize(images, facts["mean"], facts["std"], self.network.dtype)

  def answers(self, outputs: Any) -> Any:
    """What is told of the network's outputs: a tree of arrays [batch, ...]."""
    raise NotImplementedError

  def in_words(self) -> tuple[str, str]:
    """What a picture needs before `run`, and what `run` returns."""
    raise NotImplementedError

  @property
  def token_strides(self) -> tuple[int, ...]:
    """Pixels to a side of a coarse token, of each PST module as `explain` orders them."""
    raise NotImplementedError


def has_pst(params: Mapping) -> bool:
  """Whether parameters are of a network with PST, which alone has a fine branch."""
  return any(path[-1] == "gate_kernel" for path in flatten_dict(params))


def _choice(queries: Array, keys: Array, selected: Array) -> TokenChoice:
  if selected.ndim == 4:
    selected = ops.select_top_k(_times_opened(selected, keys.shape[1]), selected.shape[-1])

  def attention(image):
    queries, keys = image
    scores = jnp.einsum("nhd,mhd->hnm", queries, keys) / jnp.sqrt(queries.shape[-1])
    return jnp.mean(jax.nn.softmax(scores, axis=-1), axis=1)

  # One image at a time: a detector has thousands of queries and of tokens.
  return TokenChoice(selected, jax.lax.map(attention, (queries, keys)))


def _times_opened(selected, tokens: int) -> Float[Array, "batch heads tokens"]:
  """How many queries opened each token."""

  def of_head(each):
    none_past_the_end = jnp.where(each < 0, tokens, each).ravel()
    return jnp.zeros(tokens).at[none_past_the_end].add(1, mode="drop")

  return jax.vmap(jax.vmap(of_head))(selected)
