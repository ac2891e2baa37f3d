"""Loss and gradients of a batch: in one piece, or on every device alone and in micro-batches."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from train.augment import prepare
from train.config import Config, ConfigError
from train.loss import mixed_cross_entropy
from train.sharding import BATCH

_DEVICES = BATCH[0]


def make_gradients(model: nn.Module, config: Config, mesh: Mesh) -> Callable:
  """The function (params, batch_stats, batch, key) -> (loss, batch_stats, gradients).

  All three are those of the whole batch, on every device. Where the groups of BatchNorm do not
  cross devices, each device works through its share of the batch alone, one micro-batch after the
  other, and the devices meet once, in the sum at the end: the mean of the losses is a sum over
  examples, and the running statistics are a mean over groups, so both are what they are in one
  piece. Otherwise the compiler spreads the batch over the devices, and BatchNorm's sums with it.

  Args:
    model: the network.
    config: the run.
    mesh: the devices; `check_parts` has passed for them.
  """
  if not _is_local(config, mesh.size):
    return _gradients_of_part(model, config, 1)
  num_parts = config.accumulation_steps * mesh.size
  of_part = _gradients_of_part(model, config, num_parts)

  def of_share(params, batch_stats, batch, key):
    parts = jax.tree.map(lambda x: x.reshape(config.accumulation_steps, -1, *x.shape[1:]), batch)

    def add(total, part):
      return jax.tree.map(jnp.add, total, of_part(params, batch_stats, part, key)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(of_part, params, batch_stats, first, key)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.psum(jax.lax.scan(add, nothing, parts)[0], _DEVICES)

  whole = PartitionSpec()
  return jax.shard_map(
    of_share,
    mesh=mesh,
    in_specs=(whole, whole, BATCH, whole),
    out_specs=whole,
    # The gradients of parameters that are the same everywhere would be summed in every turn.
    check_vma=False,
  )


def _gradients_of_part(model, config, num_parts):
  """What one of `num_parts` equal parts of a batch adds to loss, statistics and gradients."""

  def of_part(params, batch_stats, batch, key):
    dropout_key, augment_key = jax.random.split(key)
    images, targets = prepare(batch, augment_key, config.data, model.dtype)

    def loss_of(params):
      logits, updates = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        positions=batch["position"],
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
      )
      losses = mixed_cross_entropy(logits, targets, config.label_smoothing)
      return jnp.sum(losses) / config.batch_size, updates["batch_stats"]

    (loss, new_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return loss, jax.tree.map(lambda x: x / num_parts, new_stats), grads

  return of_part


def _is_local(config: Config, num_devices: int) -> bool:
  """Whether each device can work through its share alone."""
  group, share = config.model.batch_norm_group_size, config.batch_size // num_devices
  return group is not None and share // config.accumulation_steps % group == 0


def check_parts(config: Config, num_devices: int) -> None:
  """Raises ConfigError for micro-batches that would not give the gradients of the whole batch."""
  steps, share = config.accumulation_steps, config.batch_size // num_devices
  if share % steps:
    raise ConfigError(
      f"accumulation_steps is {steps}, which does not divide the {share} examples of a device "
      f"(batch_size {config.batch_size} over {num_devices} devices): choose a divisor of {share}"
    )
  group, part = config.model.batch_norm_group_size, share // steps
  if steps > 1 and group is None:
    raise ConfigError(
      f"accumulation_steps is {steps}, but BatchNorm takes its statistics over the whole batch, "
      f"which is never there at once: set model.batch_norm_group_size to {part}, or to a divisor"
    )
  if steps > 1 and part % group:
    raise ConfigError(
      f"accumulation_steps is {steps}, so a device sees {part} examples at a time, which BatchNorm "
      f"groups of {group} examples do not divide: choose fewer steps, or another "
      "model.batch_norm_group_size"
    )
  if (config.data.mixup or config.data.cutmix) and part % 2:
    raise ConfigError(
      f"a device sees {part} examples at a time, but data.mixup and data.cutmix mix pairs: choose "
      "a batch_size (and accumulation_steps) that leaves an even number"
    )


def smallest_share(config: Config) -> int:
  """A device's share of the batch passes `check_parts` if it is a multiple of these examples."""
  group = config.model.batch_norm_group_size or 1
  pairs = 2 if config.data.mixup or config.data.cutmix else 1
  return config.accumulation_steps * math.lcm(group, pairs)
