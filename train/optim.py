"""Learning rates, optimizer and moving average: all that turns gradients into parameters."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from optax.contrib import ScheduleFreeState

from pst_jax.errors import UserError
from train.freezing import is_trained
from train.schema import OptimConfig


def warmup_steps(config: OptimConfig, steps_per_epoch: float) -> int:
  """Length of the warm-up; 0: there is none."""
  steps = round(config.warmup_epochs * steps_per_epoch)
  return max(steps, config.warmup_min_steps) if config.warmup_epochs else 0


def make_schedule(config: OptimConfig, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
  """Learning rate as a function of the step: linear warm-up, then the chosen decay.

  The cosine ends at step `total_steps` with `final_factor` times the peak; the step schedule
  multiplies by `step_factor` once for each of `step_epochs` that has passed; the linear one falls
  to `final_factor` times the peak and changes between epochs alone.
  """
  peak, warmup = config.learning_rate, warmup_steps(config, steps_per_epoch)
  if config.schedule == "linear":
    falling = _linear_schedule(peak, config.final_factor, total_steps, steps_per_epoch)
    # During the warm-up it rises to the rate of the epoch, which falls meanwhile.
    return lambda step: falling(step) * _progress(step, warmup)
  decay_steps = max(total_steps - warmup, 1)
  after_warmup = {
    "constant": lambda: optax.constant_schedule(peak),
    "cosine": lambda: optax.cosine_decay_schedule(peak, decay_steps, config.final_factor),
    "step": lambda: _step_schedule(
      peak, config.step_factor, [round(e * steps_per_epoch) - warmup for e in config.step_epochs]
    ),
  }[config.schedule]()
  if not warmup:
    return after_warmup
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after_warmup], [warmup])


def make_bias_schedule(
  config: OptimConfig, schedule: optax.Schedule, steps_per_epoch: float
) -> optax.Schedule:
  """Learning rate of biases: in the warm-up from `warmup_bias_lr` to that of everything else."""
  start, warmup = config.warmup_bias_lr, warmup_steps(config, steps_per_epoch)
  if not (start and warmup):
    return schedule
  return lambda step: start * (1 - _progress(step, warmup)) + schedule(step)


def make_momentum(config: OptimConfig, steps_per_epoch: float) -> float | optax.Schedule:
  """Momentum as a function of the step, or a number where it never changes."""
  start, warmup = config.warmup_momentum, warmup_steps(config, steps_per_epoch)
  if start is None or not warmup:
    return config.momentum
  return lambda step: start + (config.momentum - start) * _progress(step, warmup)


def _progress(step, warmup):
  """From 0 to 1 during the warm-up; in float64 where JAX has it, which int32 / int would not be."""
  return jnp.minimum(jnp.asarray(step, float) / warmup, 1.0) if warmup else 1.0


def _step_schedule(peak, factor, boundaries):
  # optax's own takes a dictionary by boundary, in which boundaries that coincide would be one.
  return lambda step: peak * factor ** jnp.sum(step >= np.array(boundaries, np.int32))


def _linear_schedule(peak, final_factor, total_steps, steps_per_epoch):
  epochs = total_steps / steps_per_epoch
  # First steps of all epochs but the first: dividing the step on the device could round up.
  starts = np.ceil(np.arange(1, math.ceil(epochs)) * steps_per_epoch - 1e-6).astype(np.int32)

  def rate(step):
    epoch = jnp.sum(step >= starts).astype(float)
    return peak * (jnp.maximum(1 - epoch / epochs, 0.0) * (1 - final_factor) + final_factor)

  return rate


def decayed(params):
  """True for kernels; False for BatchNorm scales and every bias, which weight decay spares."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in ("kernel", "gate_kernel"), params
  )


def bias_or_not(params):
  """The label "bias" for every bias, BatchNorm's too; "other" for everything else."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "bias" if path[-1].key.endswith("bias") else "other", params
  )


def make_optimizer(
  config: OptimConfig, schedule: optax.Schedule, steps_per_epoch: float = 1.0
) -> optax.GradientTransformation:
  """SGD as PyTorch's (decay joins the gradient, Nesterov momentum, then the rate), AdamW or LAMB.

  Or what a function of another module makes of the learning rate and `config.options`.

  LAMB is algorithm 2 of arXiv 1904.00962 as timm has it: Adam's step plus the decay, made as long
  as the parameters of that layer are large. What is spared from decay takes plain Adam's step.
  `steps_per_epoch` is what `make_schedule` was given.

  Raises:
    UserError: the function is not there, or does not take the options.
  """
  if ":" in config.name:
    return _of_trained(config, optax.chain(*_clipping(config), _imported(config, schedule)))
  decay = optax.add_decayed_weights(config.weight_decay, decayed)
  update = {
    "sgd": lambda: [decay, _nesterov(make_momentum(config, steps_per_epoch))],
    "adamw": lambda: [optax.scale_by_adam(config.momentum, config.beta2), decay],
    "lamb": lambda: [
      optax.scale_by_adam(config.momentum, config.beta2, eps=1e-6),
      decay,
      optax.masked(optax.scale_by_trust_ratio(), decayed),
    ],
  }[config.name]()
  rate = optax.scale_by_learning_rate(schedule)
  bias_schedule = make_bias_schedule(config, schedule, steps_per_epoch)
  if bias_schedule is not schedule:
    rates = {"other": rate, "bias": optax.scale_by_learning_rate(bias_schedule)}
    rate = optax.partition(rates, bias_or_not)
  return _of_trained(config, optax.chain(*_clipping(config), *update, rate))


def _imported(config, schedule) -> optax.GradientTransformation:
  """What the function that `config.name` names returns."""
  module, _, name = config.name.partition(":")
  try:
    made = getattr(importlib.import_module(module), name)(schedule, **config.options)
  except (ImportError, AttributeError, TypeError, ValueError) as error:
    raise UserError(
      f"optim.name is {config.name!r} with optim.options {config.options}, but that makes no "
      f"optimizer ({error}): give module:function(learning_rate, **options), as optax has them"
    ) from error
  if not all(callable(getattr(made, part, None)) for part in ("init", "update")):
    raise UserError(
      f"optim.name is {config.name!r}, which returned a {type(made).__name__}, but it must be an "
      "optax.GradientTransformation"
    )
  return made


def _nesterov(momentum):
  if not callable(momentum):
    return optax.trace(momentum, nesterov=True)
  scheduled = optax.inject_hyperparams(optax.trace, static_args=("nesterov", "accumulator_dtype"))
  return scheduled(decay=momentum, nesterov=True)


def _clipping(config):
  if config.clip_norm is None:
    return []
  if not config.clip_epsilon:
    return [optax.clip_by_global_norm(config.clip_norm)]

  def clip(grads, _):
    norm = optax.global_norm(grads)
    factor = jnp.minimum(1.0, config.clip_norm / (norm + config.clip_epsilon))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

  return [optax.stateless(clip)]


def _of_trained(config, optimizer):
  """The optimizer for what is trained; the rest stays, counts in no norm and takes no memory."""
  if not (config.trainable or config.frozen):
    return optimizer

  def labels(params):
    trained = is_trained(params, config.trainable, config.frozen)
    return jax.tree.map(lambda learns: "trained" if learns else "frozen", trained)

  # Minus zero is what changes no bit of any parameter: adding zero would make a minus zero plus.
  still = optax.stateless_with_tree_map(lambda grad, _: jnp.full_like(grad, -0.0))
  return optax.partition({"trained": optimizer, "frozen": still}, labels)


def own_average(opt_state: optax.OptState, params):
  """The parameters to evaluate that an optimizer keeps itself; None for those that keep none.

  Schedule-free optimizers (optax.contrib, arXiv 2405.15682) take gradients at y, between their
  average x and their fast iterate z: y = b1 x + (1 - b1) z, of which x is what is evaluated.
  """
  nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ScheduleFreeState))
  kept = next((node for node in nodes if isinstance(node, ScheduleFreeState)), None)
  if kept is None:
    return None

  def is_still(z):
    return isinstance(z, optax.MaskedNode)  # of a parameter that does not learn

  def average(z, y):
    return y if is_still(z) else (y - (1 - kept.b1) * z) / kept.b1

  return jax.tree.map(average, kept.z, params, is_leaf=is_still)


def ema_decay(step: Int[Array, ""], decay: float, ramp: float = 0.0) -> Float[Array, ""]:
  """Decay of the moving average at a step, counted from 0: early averages forget the start quickly.

  With a ramp it is decay * (1 - exp(-n / ramp)) for the n-th step, counted from 1; without one,
  min(decay, (1 + step) / (10 + step)).
  """
  if ramp:
    return -decay * jnp.expm1(-(step + 1) / ramp)
  return jnp.minimum(decay, (1 + step) / (10 + step))
