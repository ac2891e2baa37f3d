"""From a config to what a run needs: network, optimizer, mesh, state, compiled steps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

import pst_jax
from train import sharding
from train.config import Config, ConfigError, ModelConfig, check
from train.gradients import check_parts, make_gradients
from train.optim import make_optimizer, make_schedule
from train.state import TrainState, initial_state
from train.step import make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything of a run but its data and its state.

  Attributes:
    config: the run.
    mesh: the devices.
    model: the network as it is trained.
    total_steps: steps of the whole run.
    steps_per_epoch: training examples / batch size, a fraction in general.
    abstract_state: shapes, types and shardings of the state.
    initial_state: (given values or nothing) -> the state at step 0, made sharded.
    train_step: (state, batch) -> (state, metrics); donates the state.
    eval_step: (variables, batch) -> sums by top_k.
  """

  config: Config
  mesh: Mesh
  model: nn.Module
  total_steps: int
  steps_per_epoch: float
  abstract_state: TrainState
  initial_state: Callable[..., TrainState]
  train_step: Any
  eval_step: Any

  def is_due(self, step: int, every_epochs: float) -> bool:
    """Whether `step` completes a multiple of `every_epochs`, or the run."""
    every = every_epochs * self.steps_per_epoch
    return step == self.total_steps or int(step / every) > int((step - 1) / every)


def create_model(config: ModelConfig, num_classes: int) -> nn.Module:
  """The network of a config; raises ConfigError for what cannot be."""
  try:
    return pst_jax.create_model(
      config.name,
      num_classes,
      top_k=config.top_k,
      width=config.width,
      stem=config.stem,
      dropout=config.dropout,
      dtype=jnp.dtype(config.dtype),
      group_size=config.batch_norm_group_size,
      remat=config.remat,
      remat_policy=config.remat_policy,
    )
  except ValueError as error:
    raise ConfigError(str(error)) from None


def make_setup(
  config: Config, num_classes: int, num_train: int, devices=None, for_training: bool = True
) -> Setup:
  """Checks the config against the data and the devices, before anything is compiled or saved.

  Args:
    config: the run.
    num_classes: of the data.
    num_train: training examples.
    devices: None: all.
    for_training: False: evaluation alone, to which the batch size and `fsdp` do not matter, so that
      any number of devices will do.

  Raises:
    ConfigError: a value that cannot be, alone or together with the data or devices.
  """
  check(config)
  mesh = sharding.make_mesh(config.fsdp if for_training else 1, devices)
  if for_training:
    _check_batch(config, num_train, mesh.size)
  # Where the type is float64 the caller has enabled x64; without it JAX would compute in float32.
  if config.model.dtype == "float64" and not jax.config.jax_enable_x64:
    raise ConfigError("model.dtype is float64, which needs JAX_ENABLE_X64=1 in the environment")
  steps_per_epoch = num_train / config.batch_size
  total_steps = max(1, round(config.epochs * steps_per_epoch))
  schedule = make_schedule(config.optim, total_steps, steps_per_epoch)
  optimizer = make_optimizer(config.optim, schedule)
  model = create_model(config.model, num_classes)
  abstract_state, create = _state(config, model, optimizer, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
  options = pst_jax.compiler_options(mesh.devices.flat[0].platform)
  batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  train_step = make_train_step(
    optimizer,
    schedule,
    config,
    make_gradients(model, config, mesh),
    gather=lambda params: sharding.gather(params, shardings.params, mesh),
    scatter=lambda grads: jax.lax.with_sharding_constraint(grads, shardings.params),
  )
  eval_models = {top_k: model.clone(top_k=top_k) for top_k in config.eval_top_k}
  _check_networks(config, {config.model.top_k: model} | eval_models, abstract_state)
  return Setup(
    config,
    mesh,
    model,
    total_steps,
    steps_per_epoch,
    abstract_state,
    create,
    jax.jit(
      train_step,
      in_shardings=(shardings, batch),
      out_shardings=(shardings, whole),
      donate_argnums=0,
      compiler_options=options,
    ),
    jax.jit(
      make_eval_step(eval_models, config),
      in_shardings=(None, batch),
      out_shardings=whole,
      compiler_options=options,
    ),
  )


def _state(
  config: Config, model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[TrainState, Callable[..., TrainState]]:
  size = config.data.image_size
  create = functools.partial(
    initial_state,
    model.clone(top_k=0),
    optimizer,
    jax.random.key(config.seed),
    (size, size, 3),
    keep_ema=config.ema_decay > 0,
  )
  try:
    shapes = jax.eval_shape(create)
  except ValueError as error:
    raise ConfigError(str(error)) from None
  shardings = sharding.state_shardings(shapes, mesh)
  abstract = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    shapes,
    shardings,
  )
  # It runs once. On the CPU, optimized code for it takes five times longer to compile.
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  options = {"xla_backend_optimization_level": 0} if on_cpu else {}
  return abstract, jax.jit(create, out_shardings=shardings, compiler_options=options)


def _check_batch(config, num_train, num_devices):
  size, group = config.batch_size, config.model.batch_norm_group_size
  if size > num_train:
    raise ConfigError(
      f"batch_size is {size}, but there are {num_train} training examples: choose a smaller one"
    )
  if size % num_devices:
    raise ConfigError(
      f"batch_size is {size}, which {num_devices} devices do not divide: choose a multiple of "
      f"{num_devices}"
    )
  if group and size % group:
    raise ConfigError(
      f"batch_size is {size}, which BatchNorm groups of {group} examples do not divide: choose a "
      "multiple of model.batch_norm_group_size"
    )
  check_parts(config, num_devices)


def _check_networks(config, models, abstract_state):
  """Traces each network once: too large a top_k must be found before hours of training."""
  side = config.data.image_size
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.dtype(config.model.dtype))
  for model in models.values():
    try:
      jax.eval_shape(model.apply, abstract_state.variables, images)
    except ValueError as error:
      raise ConfigError(f"{error} (images are {side}x{side})") from None
