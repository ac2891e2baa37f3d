"""One step of training and of evaluation: pure functions of state and batch.

The loss of a batch is a sum over its examples divided by a weight (see `train.tasks.base.Loss`), so
sums and weights are added up over micro-batches and devices, and divided once, at the end.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from train.freezing import frozen_norms, learning_of, with_running_statistics
from train.optim import ema_decay, own_average
from train.schema import Config
from train.sharding import BATCH
from train.state import TrainState
from train.tasks.base import Task

FINITE = "finite_gradients"
GROUP_NORM = "grad_norm_"

# Folded into a step's key, for the rule that selects tokens.
_SELECTION = 2


def step_key(seed: int, step: int | Int[Array, ""]) -> jax.Array:
  """The key of everything that is random in a step."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def augmentation_key(key: jax.Array) -> jax.Array:
  """The part of a step's key that `Task.inputs` gets."""
  return jax.random.split(key)[1]


def make_train_step(
  task: Task,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  config: Config,
  mesh: Mesh,
  gather: Callable = lambda params: params,
  scatter: Callable = lambda grads: grads,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """The function (state, batch) -> (state, metrics).

  The metrics are "loss" and "grad_norm" of the parameters before the step, its "learning_rate", and
  "param_norm" after it, all of which are finite as long as the run is sound; the task's logs;
  "grad_norm_backbone" and so on, of each part of the network; and `FINITE`, whether the gradient of
  each parameter is finite, in the order of the tree's leaves.

  The optimizer was built with `schedule`, which is asked for the metrics. `gather` lays the
  parameters out for computing (whole on every device), and `scatter` the gradients as the
  parameters are stored.
  """
  batch_sums = _batch_sums(task, model, config, mesh)

  def train_step(state, batch):
    batch = {**batch, "position": jnp.arange(batch["image"].shape[0])}
    key = step_key(config.seed, state.step)
    sums, batch_stats = batch_sums(gather(state.params), state.batch_stats, batch, key)
    weight = jnp.maximum(sums.pop("weight"), task.least_weight / config.batch_size)
    means = jax.tree.map(lambda total: total / weight.astype(total.dtype), sums)
    grads = scatter(means["grads"])
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    old, new = state.variables, {"params": params, "batch_stats": batch_stats}
    learns = learning_of(old, config.optim.trainable, config.optim.frozen)

    # What is frozen keeps its bits: neither a sum of parts nor an average may round it.
    def learned(old, now):
      return jax.tree.map(lambda old, now, moves: now if moves else old, old, now, learns)

    new = learned(old, new)
    ema = state.ema
    if (average := own_average(opt_state, params)) is not None:
      # It has no running statistics of its own: those of the parameters beside it are near.
      ema = learned(ema, {"params": average, "batch_stats": batch_stats})
    elif ema is not None:
      decay = ema_decay(state.step, config.ema_decay, config.ema_ramp)

      def moved(mean, now):
        return (decay * mean + (1 - decay) * now).astype(mean.dtype)

      ema = learned(ema, jax.tree.map(moved, ema, new))
    squares = jax.tree.map(lambda g: jnp.sum(g * g), grads)
    groups = {name: jnp.sqrt(sum(jax.tree.leaves(group))) for name, group in squares.items()}
    metrics = {
      **means["logs"],
      "loss": means["loss"],
      "learning_rate": schedule(state.step),
      "grad_norm": optax.global_norm(grads),
      **{GROUP_NORM + name: norm for name, norm in groups.items()},
      "param_norm": optax.global_norm(params),
      FINITE: jnp.isfinite(jnp.stack(jax.tree.leaves(squares))).astype(int),
    }
    return TrainState(state.step + 1, **new, opt_state=opt_state, ema=ema), metrics

  return train_step


def _batch_sums(task: Task, model: nn.Module, config: Config, mesh: Mesh) -> Callable:
  """The function (params, batch_stats, batch, key) -> (sums, batch_stats) of the whole batch.

  Where the groups of BatchNorm do not cross devices, each device works through its part of the
  batch alone, one micro-batch after the other, and what they exchange is one sum at the end: losses
  and gradients are sums over examples, and the running statistics are a mean over groups, so both
  are what they are in one piece. Otherwise the compiler spreads the batch over the devices, and
  BatchNorm's sums with it.
  """
  steps, group = config.accumulation_steps, config.model.batch_norm_group_size
  is_local = group is not None and config.batch_size // mesh.size // steps % group == 0
  num_parts = steps * mesh.size if is_local else 1

  def of_part(params, batch_stats, batch, key):
    dropout_key = jax.random.split(key)[0]
    images, targets = task.inputs(batch, augmentation_key(key), config, model.dtype)

    norms = frozen_norms(params, config.optim.trainable, config.optim.frozen)

    def loss_of(params):
      with nn.intercept_methods(with_running_statistics(norms)):
        outputs, updates = model.apply(
          {"params": params, "batch_stats": batch_stats},
          images,
          train=True,
          positions=batch["position"],
          mutable=["batch_stats"],
          rngs={"dropout": dropout_key, "selection": jax.random.fold_in(key, _SELECTION)},
        )
      # All sums are scaled alike, by a constant that keeps gradients as small as those of a mean.
      loss = jax.tree.map(
        lambda total: total / config.batch_size, task.loss(outputs, targets, config)
      )
      return loss.total, (loss, updates["batch_stats"])

    (_, (loss, new_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    sums = {"loss": loss.total, "weight": loss.weight, "logs": dict(loss.logs), "grads": grads}
    return sums, jax.tree.map(lambda x: x / num_parts, new_stats)

  def of_device(params, batch_stats, batch, key):
    parts = jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), batch)

    def add(total, part):
      return jax.tree.map(jnp.add, total, of_part(params, batch_stats, part, key)), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(of_part, params, batch_stats, first, key)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.psum(jax.lax.scan(add, nothing, parts)[0], BATCH[0])

  if not is_local:
    return of_part
  whole = PartitionSpec()
  return jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(whole, whole, BATCH, whole),
    out_specs=whole,
    # The gradients of parameters that are the same everywhere would be summed in every turn.
    check_vma=False,
  )


def make_eval_step(
  task: Task, models: dict[str, nn.Module], config: Config
) -> Callable[[dict, dict], dict]:
  """The function (variables, batch) -> what the task measures, by the names of the evaluations.

  `models` are the network as each of them takes it; all share the variables.
  """

  def eval_step(variables, batch):
    def measured(model):
      images = task.eval_images(batch, config, model.dtype)
      # A random rule draws for each example by its place in the split: the same in batches and on
      # devices of any number.
      outputs = model.apply(
        variables,
        images,
        train=False,
        positions=batch["position"],
        rngs={"selection": jax.random.key(config.seed)},
      )
      return task.measure(outputs, batch, config)

    return {name: measured(model) for name, model in models.items()}

  return eval_step
