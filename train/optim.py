"""Learning rate schedule and optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config import OptimConfig


def make_schedule(config: OptimConfig, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
  """Learning rate as a function of the step: linear warm-up, then the chosen decay.

  The cosine ends at step `total_steps` with `final_factor` times the peak; the step schedule
  multiplies by `step_factor` once for each of `step_epochs` that has passed.
  """
  peak, warmup = config.learning_rate, round(config.warmup_epochs * steps_per_epoch)
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


def _step_schedule(peak, factor, boundaries):
  # optax's own takes a dictionary by boundary, in which boundaries that coincide would be one.
  return lambda step: peak * factor ** jnp.sum(step >= np.array(boundaries, np.int32))


def decayed(params):
  """True for kernels; False for BatchNorm scales and every bias, which weight decay spares."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in ("kernel", "gate_kernel"), params
  )


def make_optimizer(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
  """SGD as PyTorch's (decay joins the gradient, Nesterov momentum, then the rate), AdamW or LAMB.

  LAMB is algorithm 2 of arXiv 1904.00962 as timm has it: Adam's step plus the decay, made as long
  as the parameters of that layer are large. What is spared from decay takes plain Adam's step.
  """
  clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
  decay = optax.add_decayed_weights(config.weight_decay, decayed)
  update = {
    "sgd": lambda: [decay, optax.trace(config.momentum, nesterov=True)],
    "adamw": lambda: [optax.scale_by_adam(config.momentum, config.beta2), decay],
    "lamb": lambda: [
      optax.scale_by_adam(config.momentum, config.beta2, eps=1e-6),
      decay,
      optax.masked(optax.scale_by_trust_ratio(), decayed),
    ],
  }[config.name]()
  return optax.chain(*clip, *update, optax.scale_by_learning_rate(schedule))
