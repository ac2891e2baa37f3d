"""What a training step carries from one to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


class TrainState(flax.struct.PyTreeNode):
  """Attributes:
  step: steps done so far.
  params: parameters, in float32 or wider.
  batch_stats: running statistics of BatchNorm.
  opt_state: state of the optax optimizer.
  ema: moving averages {"params", "batch_stats"} for evaluation; None: not kept.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any

  @property
  def variables(self) -> dict:
    return {"params": self.params, "batch_stats": self.batch_stats}

  @property
  def eval_variables(self) -> dict:
    """What evaluation uses: the moving averages where they are kept."""
    return self.variables if self.ema is None else self.ema


def initial_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, int, int],
  keep_ema: bool,
) -> TrainState:
  """The state at step 0; meant to run under jit, so that every array is born sharded."""
  # The images' batch does not matter: parameters do not depend on it.
  variables = model.init(key, jnp.zeros((1, *image_shape), model.dtype))
  params, batch_stats = variables["params"], variables["batch_stats"]
  # A copy: donating a buffer that two leaves share crashes.
  ema = jax.tree.map(jnp.copy, dict(variables)) if keep_ema else None
  return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), ema)
