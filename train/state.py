"""What a training step carries from one to the next."""

from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from train.optim import own_average


class TrainState(flax.struct.PyTreeNode):
  """What training changes."""

  step: jax.Array  # steps done so far
  params: Any  # in float32 or wider
  batch_stats: Any  # running statistics of BatchNorm
  opt_state: Any
  ema: Any  # averages {"params", "batch_stats"} for evaluation; None: not kept

  @property
  def variables(self) -> dict:
    return {"params": self.params, "batch_stats": self.batch_stats}

  @property
  def eval_variables(self) -> dict:
    """What evaluation uses: the averages where they are kept."""
    return self.variables if self.ema is None else self.ema


def initial_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, int, int],
  keep_ema: bool,
  pretrained: dict[str, jax.Array] | None = None,
) -> TrainState:
  """The state at step 0; meant to run under jit, so that every array is born sharded.

  Args:
    key: of the random start.
    image_shape: height, width and channels.
    keep_ema: keep averages although the optimizer has none of its own.
    pretrained: {"params/backbone/stem/conv/kernel": array} that take the place of random values.
  """
  # The images' batch does not matter: parameters do not depend on it.
  variables = model.init(key, jnp.zeros((1, *image_shape), model.dtype))
  leaves = flax.traverse_util.flatten_dict(variables, sep="/")
  for name, value in (pretrained or {}).items():
    # A copy: an argument of a function under jit may be handed through, not owned by the state.
    leaves[name] = jnp.array(value, leaves[name].dtype, copy=True)
  variables = flax.traverse_util.unflatten_dict(leaves, sep="/")
  params, batch_stats = variables["params"], variables["batch_stats"]
  opt_state = optimizer.init(params)
  keep_ema = keep_ema or own_average(opt_state, params) is not None
  # A copy: donating a buffer that two leaves share crashes.
  ema = jax.tree.map(jnp.copy, dict(variables)) if keep_ema else None
  return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, ema)
