"""The training run: restore, step, log, evaluate, save."""

import collections
import contextlib
import dataclasses
import importlib.metadata
import math
import shlex
from collections.abc import Callable

import jax

from train import sharding
from train.agreement import meet, require_agreement
from train.checkpoint import Checkpoints
from train.command import Stopped
from train.config import Config, ConfigError, flatten
from train.data import Dataset, open_dataset, train_batches
from train.evaluation import evaluate
from train.init_from import initial_values
from train.logging import RunLog
from train.profiling import Profiler
from train.run_folder import RunFolder, open_run
from train.setup import Setup, make_setup
from train.state import TrainState
from train.timing import Times

# A step whose loss is finite can still spoil the parameters, and they must not be saved then.
MUST_BE_FINITE = ("loss", "grad_norm", "param_norm")


@dataclasses.dataclass(frozen=True)
class Result:
  """Attributes:
  state: after the last step.
  accuracy: as `evaluate` returns it, of the last evaluation.
  """

  state: TrainState
  accuracy: dict[int, dict[str, float]]


def train(config: Config, should_stop: Callable[[int], bool] = lambda step: False) -> Result:
  """Trains to the end of the schedule, from the newest checkpoint of the run folder if it has one.

  Args:
    config: the run.
    should_stop: asked after every step: shall the run save and stop here? The same in all
      processes; see `distributed.joined`.

  Raises:
    ConfigError: a mistake in the config, the data or the folder; a loss that is not finite.
    Stopped: `should_stop` said so, and the state of that step is saved.
  """
  times = Times()
  dataset = open_dataset(config.data)
  setup = make_setup(config, dataset.num_classes, dataset.num_train)
  is_main = jax.process_index() == 0
  # Before the folder is made: with a mistake in init_from there shall be no run.
  given, origin = initial_values(setup)
  profiler = Profiler(config, setup.total_steps, RunFolder(config.run_dir).profile, enabled=is_main)
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(open_run(config, is_main))
    require_agreement(config, dataset, folder)
    meet(setup.mesh)
    stack.enter_context(profiler)
    checkpoints = stack.enter_context(
      Checkpoints(folder.checkpoints, keep_latest=config.checkpoint.keep_latest)
    )
    checkpoints.require_space(setup.abstract_state)
    restored = checkpoints.restore(setup.abstract_state)
    state = restored.state if restored else setup.initial_state(given=given)
    first_step = restored.step if restored else 0
    with RunLog(
      folder.path,
      total_steps=setup.total_steps,
      images_per_step=config.batch_size,
      start_step=first_step,
      enabled=is_main,
    ) as log:
      for line in [_headline(setup, dataset, folder.path, first_step), *origin]:
        log.message(line)
      times.rest("startup")
      run = _Run(setup, dataset, checkpoints, log, times, profiler, should_stop)
      state, accuracy = _steps(run, state, first_step)
      with times.measure("checkpoint"):
        checkpoints.wait()
      if accuracy is None:  # resumed after the last step
        with times.measure("evaluation"):
          accuracy = evaluate(setup, state.eval_variables, dataset)
      log.summary(
        _summary(config, accuracy, folder, checkpoints, times),
        _next_commands(config, folder.path),
      )
  return Result(state, accuracy)


@dataclasses.dataclass(frozen=True)
class _Run:
  """What the steps of a run work with."""

  setup: Setup
  dataset: Dataset
  checkpoints: Checkpoints
  log: RunLog
  times: Times
  profiler: Profiler
  should_stop: Callable[[int], bool]


def _steps(run: _Run, state: TrainState, first_step: int):
  setup, config, log, times = run.setup, run.setup.config, run.log, run.times
  # Whoever takes the weights elsewhere finds the names of the classes with them.
  extra = {
    "config": flatten(config),
    "versions": _versions(),
    "class_names": run.dataset.class_names,
  }
  pending, accuracy = _Metrics(run.checkpoints), None
  batches = _Batches(setup, run.dataset, first_step)
  for step in range(first_step + 1, setup.total_steps + 1):
    with times.measure("data_wait"):
      batch = next(batches)
    # The first call compiles; later ones return at once, and the devices compute.
    with times.measure("compilation" if step == first_step + 1 else "compute"):
      state, metrics = run.profiler.run(step, setup.train_step, state, batch)
    pending.add(step, metrics)
    log.advance(step)
    evaluation_due = setup.is_due(step, config.eval_every_epochs)
    stops = run.should_stop(step)
    save_due = stops or setup.is_due(step, config.checkpoint.every_epochs)
    if step % config.log_every == 0 or evaluation_due or save_due:
      values = pending.check()
      if step % config.log_every == 0 or step == setup.total_steps:
        epoch = {"epoch": step / setup.steps_per_epoch}
        log.train(step, epoch | values | times.since_last())
    measured = None
    if evaluation_due:
      with log.activity("evaluating"), times.measure("evaluation"):
        accuracy = evaluate(setup, state.eval_variables, run.dataset)
      log.write(step, _flat(accuracy))
      measured = {"top1": accuracy[config.eval_top_k[0]]["top1"]}
    if save_due:
      with log.activity("saving"), times.measure("checkpoint"):
        run.checkpoints.save(step, state, metrics=measured, extra=extra)
    if stops and step < setup.total_steps:
      run.checkpoints.wait()
      raise Stopped(
        f"stopped at step {step} of {setup.total_steps}, which is saved; give the same command "
        "again to go on"
        if jax.process_index() == 0
        else ""
      )
  return state, accuracy


class _Batches:
  """Global batches on the devices, a few ahead of the step."""

  def __init__(self, setup: Setup, dataset: Dataset, first_step: int):
    config = setup.config
    host_batches = train_batches(
      dataset,
      config.data,
      seed=config.seed,
      batch_size=config.batch_size,
      first_step=first_step,
      host_index=jax.process_index(),
      host_count=jax.process_count(),
    )
    self._batches = (sharding.put_batch(batch, setup.mesh) for batch in host_batches)
    self._ahead = collections.deque(maxlen=config.data.prefetch)

  def __next__(self) -> dict:
    while len(self._ahead) < self._ahead.maxlen:
      self._ahead.append(next(self._batches))
    return self._ahead.popleft()


class _Metrics:
  """Metrics of the latest steps, left on the device until they are looked at."""

  def __init__(self, checkpoints: Checkpoints):
    self._checkpoints = checkpoints
    self._pending = []

  def add(self, step: int, metrics: dict) -> None:
    self._pending.append((step, metrics))
    if len(self._pending) > 2:
      # The host must not run arbitrarily far ahead of the devices.
      jax.block_until_ready(self._pending[-3])

  def check(self) -> dict[str, float]:
    """The newest metrics.

    Raises:
      ConfigError: since the last call a step's loss, gradients or parameters were not finite.
    """
    pending, self._pending = jax.device_get(self._pending), []
    for step, metrics in pending:
      wrong = [name for name in MUST_BE_FINITE if not math.isfinite(metrics[name])]
      if wrong:
        last = self._checkpoints.latest_step
        good = f"the last good checkpoint is step {last}" if last else "there is no checkpoint yet"
        raise ConfigError(
          f"the {wrong[0]} was {metrics[wrong[0]]} at step {step} with learning rate "
          f"{metrics['learning_rate']:.3g}; {good}: lower optim.learning-rate, or clip gradients "
          "with optim.clip-norm, in a new run folder"
        )
    return {name: float(value) for name, value in pending[-1][1].items()}


def _flat(accuracy):
  return {
    f"eval/{name}_k{top_k}": value
    for top_k, values in accuracy.items()
    for name, value in values.items()
  }


def _headline(setup, dataset, path, first_step):
  config, platform = setup.config, setup.mesh.devices.flat[0].platform
  is_finished = first_step == setup.total_steps
  start = f"finished at step {first_step}" if is_finished else f"goes on after step {first_step}"
  return (
    f"{config.model.name} on {config.data.dataset}: {dataset.num_train} training and "
    f"{dataset.num_eval} evaluation images, {dataset.num_classes} classes; "
    f"{setup.total_steps} steps of {config.batch_size} images on {setup.mesh.size} {platform} "
    f"device(s)\n{path}: {start if first_step else 'a new run'}"
  )


def _summary(config, accuracy, folder, checkpoints, times):
  rows = [
    (f"top-1 with top_k={top_k}", f"{100 * values['top1']:.2f} % of {values['count']:.0f}")
    for top_k, values in accuracy.items()
  ]
  return [
    *rows,
    *times.summary(),
    ("config", str(folder.config)),
    ("metrics", str(folder.metrics)),
    ("checkpoints", f"{folder.checkpoints} (newest: step {checkpoints.latest_step})"),
    ("TensorBoard", f"tensorboard --logdir {folder.tensorboard}"),
    *([("profile", f"xprof --logdir {folder.profile}")] if folder.profile.is_dir() else []),
  ]


def _next_commands(config, path):
  run, file = shlex.quote(str(path)), shlex.quote(f"{path.name}.safetensors")
  return [
    f"python -m train.evaluate {run} --top-k {max(config.eval_top_k)}",
    f"python -m pst_jax convert {run} {file}",
  ]


def _versions():
  return {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
