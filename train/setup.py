"""From a config to what a run or an evaluation needs: network, mesh, state, compiled steps."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

import pst_jax
from pst_jax import limits
from pst_jax.errors import UserError
from train import sharding
from train.config_values import check, check_values
from train.optim import make_optimizer, make_schedule, own_average
from train.schema import Config, ModelConfig
from train.state import TrainState, initial_state
from train.step import make_eval_step, make_train_step
from train.tasks import registry
from train.tasks.base import Entry, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSetup:
  """Everything of an evaluation but its data and the weights."""

  config: Config
  task: Task
  mesh: Mesh
  model: nn.Module  # as it is trained
  eval_step: Callable  # (variables, batch) -> what the task measures, by the names of config.evals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup(EvalSetup):
  """Everything of a run but its data and its state."""

  total_steps: int
  steps_per_epoch: float  # training examples / batch size, a fraction in general
  abstract_state: TrainState  # shapes, types and shardings
  abstract_batch: dict[str, jax.ShapeDtypeStruct]  # likewise, of a global batch
  initial_state: Callable[..., TrainState]  # (pretrained values or nothing) -> at step 0, sharded
  train_step: Any  # compiled, (state, batch) -> (state, metrics); donates the state

  @property
  def saves(self) -> int:
    """How many checkpoints the run saves from its beginning to its end, unless it is stopped."""
    every = self.config.checkpoint.every_epochs * self.steps_per_epoch
    return min(self.total_steps, math.ceil(self.total_steps / every))

  def is_due(self, step: int, every_epochs: float) -> bool:
    """Whether `step` completes a multiple of `every_epochs`, or the run."""
    every = every_epochs * self.steps_per_epoch
    # Of a multiple that is a whole step, rounding must not make the step after it.
    done, before = (math.floor(each / every + 1e-9) for each in (step, step - 1))
    return step == self.total_steps or done > before


def make_setup(config: Config, num_classes: int, num_train: int, devices=None) -> Setup:
  """Checks the config against the data and the devices, before anything is compiled or saved.

  Raises:
    UserError: a value that cannot be, alone or together with the data or devices.
  """
  check(config)
  task, mesh = registry.find(config.task), sharding.make_mesh(config.fsdp, devices)
  _check_batch(config, task, num_train, mesh.size)
  steps_per_epoch = num_train / config.batch_size
  total_steps = max(1, round(config.epochs * steps_per_epoch))
  if not limits.STEPS.allows(total_steps):
    raise UserError(
      f"epochs is {config.epochs}, which is {total_steps:,} steps with these data, but the number"
      f" of steps must be {limits.STEPS.text}: lower it"
    )
  schedule = make_schedule(config.optim, total_steps, steps_per_epoch)
  optimizer = make_optimizer(config.optim, schedule, steps_per_epoch)
  model = create_model(config.model, num_classes)
  abstract_state, create = _state(config, model, optimizer, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
  step = make_train_step(
    task,
    model,
    optimizer,
    schedule,
    config,
    mesh,
    gather=lambda params: sharding.gather(params, shardings.params, mesh),
    scatter=lambda grads: jax.lax.with_sharding_constraint(grads, shardings.params),
  )
  batch = sharding.batch_sharding(mesh)
  return Setup(
    **vars(_evaluation(config, task, mesh, model, abstract_state.variables)),
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
    abstract_state=abstract_state,
    abstract_batch={
      name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=batch)
      for name, (shape, dtype) in _training_entries(task, config).items()
    },
    initial_state=create,
    train_step=jax.jit(
      step,
      in_shardings=(shardings, batch),
      out_shardings=(shardings, sharding.replicated(mesh)),
      donate_argnums=0,
      compiler_options=_compiler_options(mesh),
    ),
  )


def make_eval_setup(config: Config, num_classes: int, devices=None) -> EvalSetup:
  """As `make_setup`, for evaluation alone: any number of devices will do.

  Raises:
    UserError: a value that cannot be.
  """
  check_values(config)
  mesh = sharding.make_mesh(devices=devices)
  model = create_model(config.model, num_classes)
  size = config.data.image_size
  images = jax.ShapeDtypeStruct((1, size, size, 3), model.dtype)
  variables = jax.eval_shape(model.clone(top_k=0).init, jax.random.key(0), images)
  return _evaluation(config, registry.find(config.task), mesh, model, variables)


def _evaluation(config, task, mesh, model, abstract_variables) -> EvalSetup:
  models = {
    name: model.clone(top_k=each.top_k, selection=each.selection or config.model.selection)
    for name, each in config.evals.items()
  }
  for each in [model, *models.values()]:
    _check_network(config, each, abstract_variables)
  step = jax.jit(
    make_eval_step(task, models, config),
    in_shardings=(None, sharding.batch_sharding(mesh)),
    out_shardings=sharding.replicated(mesh),
    compiler_options=_compiler_options(mesh),
  )
  return EvalSetup(config=config, task=task, mesh=mesh, model=model, eval_step=step)


def _compiler_options(mesh: Mesh) -> dict:
  return pst_jax.compiler_options(mesh.devices.flat[0].platform)


def create_model(config: ModelConfig, num_classes: int) -> nn.Module:
  """The network of a config; raises UserError for what cannot be."""
  # Where the type is float64 the caller has enabled x64; without it JAX would compute in float32.
  if config.dtype == "float64" and not jax.config.jax_enable_x64:
    raise UserError("model.dtype is float64, which needs JAX_ENABLE_X64=1 in the environment")
  options = vars(config) | {"dtype": jnp.dtype(config.dtype)}
  options["group_size"] = options.pop("batch_norm_group_size")
  # Not every network has every option: where it has none, a default asks for nothing.
  known = {"name", *pst_jax.models.model_options(config.name)}
  asked = {n: v for n, v in options.items() if n in known or v != getattr(ModelConfig, n)}
  return pst_jax.create_model(num_classes=num_classes, **asked)


def _state(
  config: Config, model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[TrainState, Callable[..., TrainState]]:
  """The abstract state, and what makes the one at step 0."""
  size = config.data.image_size
  create = functools.partial(
    initial_state,
    model.clone(top_k=0),
    optimizer,
    jax.random.key(config.seed),
    (size, size, 3),
    keep_ema=config.ema_decay > 0,
  )
  shapes = jax.eval_shape(create)
  own = jax.eval_shape(own_average, shapes.opt_state, shapes.params)
  if config.ema_decay and own is not None:
    raise UserError(
      f"ema_decay is {config.ema_decay}, but {config.optim.name} keeps an average of its own, "
      "which is evaluated: set ema_decay to 0"
    )
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


def _training_entries(task: Task, config: Config) -> dict[str, Entry]:
  """What an example of a training batch holds, with the image as it goes to the devices."""
  entries = dict(task.example(config))
  if config.data.space_to_depth:
    if config.model.stem != "imagenet":
      raise UserError(
        f"data.space_to_depth is for networks that halve images at once, but model.stem is "
        f"{config.model.stem!r}: leave one of them out"
      )
    (height, width, channels), dtype = entries["image"]
    entries["image"] = Entry((height // 2, width // 2, 4 * channels), dtype)
  return entries


def _check_batch(config: Config, task: Task, num_train: int, num_devices: int) -> None:
  """Raises UserError for a batch that cannot be cut, with the gradients of the whole batch."""
  size, steps = config.batch_size, config.accumulation_steps
  group = config.model.batch_norm_group_size
  if size > num_train:
    raise UserError(
      f"batch_size is {size}, but there are {num_train} training examples: choose a smaller one"
    )
  if size % num_devices:
    raise UserError(
      f"batch_size is {size}, which {num_devices} devices do not divide: choose a multiple of "
      f"{num_devices}"
    )
  if group and size % group:
    raise UserError(
      f"batch_size is {size}, which BatchNorm groups of {group} examples do not divide: choose a "
      "multiple of model.batch_norm_group_size"
    )
  per_device = size // num_devices
  if per_device % steps:
    raise UserError(
      f"accumulation_steps is {steps}, which does not divide the {per_device} examples of a device "
      f"(batch_size {size} over {num_devices} devices): choose a divisor of {per_device}"
    )
  part = per_device // steps
  if steps > 1 and group is None:
    raise UserError(
      f"accumulation_steps is {steps}, but BatchNorm takes its statistics over the whole batch, "
      f"which is never there at once: set model.batch_norm_group_size to {part}, or to a divisor"
    )
  if steps > 1 and part % group:
    raise UserError(
      f"accumulation_steps is {steps}, so a device sees {part} examples at a time, which BatchNorm "
      f"groups of {group} examples do not divide: choose fewer steps, or another "
      "model.batch_norm_group_size"
    )
  neighbours, reason = task.together(config)
  if part % neighbours:
    raise UserError(
      f"a device sees {part} examples at a time, but {reason}: choose a batch_size (and "
      f"accumulation_steps) that leaves a multiple of {neighbours}"
    )


def smallest_batch_per_device(config: Config) -> int:
  """Every multiple of these examples a device can be cut as `make_setup` wants it."""
  group = config.model.batch_norm_group_size or 1
  neighbours, _ = registry.find(config.task).together(config)
  return config.accumulation_steps * math.lcm(group, neighbours)


def _check_network(config: Config, model: nn.Module, abstract_variables) -> None:
  """Traces a network once: too large a top_k must be found before hours of training."""
  side = config.data.image_size
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.dtype(config.model.dtype))
  key = jax.random.key(0)
  try:
    jax.eval_shape(
      lambda variables, images: model.apply(variables, images, rngs={"selection": key}),
      abstract_variables,
      images,
    )
  except UserError as error:
    raise UserError(f"{error} (images are {side}x{side})") from None
