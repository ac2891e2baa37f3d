"""One step of training and of evaluation: pure functions (state, batch) -> (state, metrics)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from pst_jax.inference import normalize
from train.config import Config
from train.loss import cross_entropy
from train.state import TrainState


def ema_decay(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
  """min(decay, (1 + step) / (10 + step)): early averages forget the random start quickly."""
  return jnp.minimum(decay, (1 + step) / (10 + step))


def make_train_step(
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  config: Config,
  gradients: Callable,
  gather: Callable = lambda params: params,
  scatter: Callable = lambda grads: grads,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """The function (state, {"image", "label"}) -> (state, metrics).

  The metrics are "loss" and "grad_norm" of the parameters before the step, its "learning_rate", and
  "param_norm" after it; all of them are finite as long as the run is sound.

  Args:
    optimizer: built with `schedule`.
    schedule: learning rate of a step, for the metrics.
    config: the run.
    gradients: from `make_gradients`.
    gather: lays the parameters out for computing (whole on every device).
    scatter: lays the gradients out as the parameters are stored.
  """
  run_key = jax.random.fold_in(jax.random.key(config.seed), 1)

  def train_step(state, batch):
    batch = {**batch, "position": jnp.arange(batch["label"].shape[0])}
    key = jax.random.fold_in(run_key, state.step)
    loss, batch_stats, grads = gradients(gather(state.params), state.batch_stats, batch, key)
    grads = scatter(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      decay = ema_decay(state.step, config.ema_decay)
      new = {"params": params, "batch_stats": batch_stats}
      ema = jax.tree.map(
        lambda old, now: (decay * old + (1 - decay) * now).astype(old.dtype), ema, new
      )
    metrics = {
      "loss": loss,
      "learning_rate": schedule(state.step),
      "grad_norm": optax.global_norm(grads),
      "param_norm": optax.global_norm(params),
    }
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics

  return train_step


def make_eval_step(models: dict[int, nn.Module], config: Config) -> Callable[[dict, dict], dict]:
  """The function (variables, {"image", "label", "mask"}) -> sums over the unmasked examples.

  Args:
    models: by top_k, the network with that fine branch; all share the variables.
    config: the run.

  Returns:
    By top_k: sums "loss", "top1", "top5" and "count".
  """

  def eval_step(variables, batch):
    def sums(model):
      images = normalize(batch["image"], config.data.mean, config.data.std, model.dtype)
      logits = model.apply(variables, images, train=False)
      return masked_sums(logits, batch["label"], batch["mask"])

    return {top_k: sums(model) for top_k, model in models.items()}

  return eval_step


def masked_sums(
  logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], mask: Bool[Array, "batch"]
) -> dict[str, Array]:
  """Sums of loss, correct at 1 and at 5, and count; what the mask leaves out counts nowhere."""
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  # As argmax and top_k do, of equal logits the lower class comes first.
  earlier = jnp.arange(logits.shape[1]) < labels[:, None]
  rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=1)
  # Nothing is greater than nan and nan is greater than nothing, but it gives no right answer.
  rank = jnp.where(jnp.isnan(logits).any(axis=1), logits.shape[1], rank)
  return {
    "loss": jnp.sum(jnp.where(mask, cross_entropy(logits, labels), 0)),
    "top1": jnp.sum(mask & (rank < 1)),
    "top5": jnp.sum(mask & (rank < min(5, logits.shape[1]))),
    "count": jnp.sum(mask),
  }
