"""One step of training and of evaluation: pure functions (state, batch) -> (state, metrics)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from pst_jax.inference import normalize
from train.config import Config
from train.state import TrainState


def cross_entropy(
  logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], smoothing: float = 0.0
) -> Float[Array, "batch"]:
  """Cross-entropy with label smoothing: the target is 1 - s + s / classes (arXiv 1512.00567)."""
  log_probs = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
  return -(1 - smoothing) * picked - smoothing * jnp.mean(log_probs, axis=1)


def ema_decay(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
  """min(decay, (1 + step) / (10 + step)): early averages forget the random start quickly."""
  return jnp.minimum(decay, (1 + step) / (10 + step))


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  config: Config,
  gather: Callable = lambda params: params,
  scatter: Callable = lambda grads: grads,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """The function (state, {"image", "label"}) -> (state, metrics).

  The metrics are "loss" and "grad_norm" of the parameters before the step, its "learning_rate", and
  "param_norm" after it; all of them are finite as long as the run is sound.

  Args:
    model: the network.
    optimizer: built with `schedule`.
    schedule: learning rate of a step, for the metrics.
    config: the run.
    gather: lays the parameters out for computing (whole on every device).
    scatter: lays the gradients out as the parameters are stored.
  """
  dropout_key = jax.random.fold_in(jax.random.key(config.seed), 1)

  def train_step(state, batch):
    images = normalize(batch["image"], config.data.mean, config.data.std, model.dtype)
    key = jax.random.fold_in(dropout_key, state.step)

    def loss_of(params):
      logits, updates = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
      )
      losses = cross_entropy(logits, batch["label"], config.label_smoothing)
      return jnp.mean(losses), updates["batch_stats"]

    gradient = jax.value_and_grad(loss_of, has_aux=True)
    (loss, batch_stats), grads = gradient(gather(state.params))
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
