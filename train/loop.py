"""The training run: restore, step, log, evaluate, save."""

import collections
import contextlib
import dataclasses
import importlib.metadata
import pathlib
import shlex
from collections.abc import Callable, Iterator

import jax

from pst_jax.convert import Metadata
from pst_jax.errors import Stopped
from pst_jax.inference.predictor import has_pst
from train import devices, freezing, sharding
from train.config_values import flatten
from train.data import Dataset, train_batches
from train.evaluation.evaluator import evaluate, top_k_notes
from train.evaluation.report import described
from train.init_from import initial_values
from train.processes.consistency import (
  barrier,
  require_same_folder,
  require_same_run,
  require_same_weights,
)
from train.replicas import ReplicaCheck
from train.run.checkpoints import Checkpoints
from train.run.folder import RunFolder, open_run
from train.run.log import RunLog
from train.run.observers.names import TENSORBOARD
from train.run.observers.process import observer_names, observers_of
from train.run.observers.registry import require_installed
from train.run.profiling import Profiler
from train.run.step_metrics import StepMetrics
from train.run.timing import Times
from train.run.utilization import images_per_second_at_peak, peak_memory
from train.schema import Config
from train.setup import Setup, make_setup
from train.state import TrainState
from train.tasks import registry


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run ends with: the state, and the last evaluation as `evaluate` returns it."""

  state: TrainState
  metrics: dict[str, dict[str, float]]


def train(
  config: Config,
  should_stop: Callable[[int], bool] = lambda step: False,
  times: Times | None = None,
) -> Result:
  """Trains to the end of the schedule, from the newest checkpoint of the run folder if it has one.

  Args:
    config: the run.
    should_stop: see `join.ShouldStop`.
    times: begun where the command began.

  Raises:
    UserError: a mistake in the config, the data or the folder; a loss that is not finite.
    Stopped: `should_stop` said so, and the state of that step is saved.
  """
  times = times or Times()
  is_main = jax.process_index() == 0
  if is_main:
    require_installed(observer_names(config))
  dataset = registry.find(config.task).open(config)
  require_same_run(config, dataset)
  setup = make_setup(config, dataset.num_classes, dataset.num_train)
  # Before the folder is made: a mistake in init_from must not leave one behind.
  pretrained, report = initial_values(setup)
  require_same_weights(pretrained, config.init_from)
  profiler = Profiler(config, setup.total_steps, RunFolder(config.run_dir).profile, enabled=is_main)
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(open_run(config, is_main))
    require_same_folder(folder)
    barrier(setup.mesh)
    stack.enter_context(profiler)
    checkpoints = stack.enter_context(
      Checkpoints(
        folder.checkpoints,
        keep_latest=config.checkpoint.keep_latest,
        read_back=config.checkpoint.read_back,
        identity=folder.identity(config),
      )
    )
    checkpoints.require_space(setup.abstract_state, setup.saves)
    restored = checkpoints.restore(setup.abstract_state)
    state = restored.state if restored else setup.initial_state(pretrained=pretrained)
    first_step = restored.step if restored else 0
    with RunLog(
      folder.path,
      total_steps=setup.total_steps,
      images_per_step=config.batch_size,
      images_per_second_at_peak=images_per_second_at_peak(setup) if is_main else None,
      start_step=first_step,
      tensorboard=TENSORBOARD in config.loggers,
      observers=observers_of(config, folder, first_step),
      enabled=is_main,
    ) as log:
      headline = _headline(setup, dataset, folder.path, first_step)
      learning = freezing.described(
        setup.abstract_state.params, config.optim.trainable, config.optim.frozen
      )
      remarks = [*top_k_notes(setup), *setup.task.remarks(config)]
      for line in [headline, *devices.lines(), *remarks, *report, *learning]:
        log.message(line)
      times.elapsed("startup")
      run = _Run(setup, dataset, folder, checkpoints, log, times, profiler, should_stop)
      state, metrics = _steps(run, state, first_step)
      with times.measure("checkpoint"):
        checkpoints.wait()
      if metrics is None:  # resumed after the last step
        with times.measure("evaluation"):
          metrics = evaluate(setup, state.eval_variables, dataset)
      log.summary(
        _summary(setup, metrics, folder, checkpoints, times),
        _next_commands(setup, folder.path),
      )
  return Result(state, metrics)


@dataclasses.dataclass(frozen=True)
class _Run:
  """What the steps of a run work with."""

  setup: Setup
  dataset: Dataset
  folder: RunFolder
  checkpoints: Checkpoints
  log: RunLog
  times: Times
  profiler: Profiler
  should_stop: Callable[[int], bool]


def _steps(run: _Run, state: TrainState, first_step: int):
  setup, config, log, times = run.setup, run.setup.config, run.log, run.times
  pending, metrics = StepMetrics(run.checkpoints, setup.abstract_state.params), None
  batches = _batches(setup, run.dataset, first_step)
  replicas = ReplicaCheck(config.check_replicas_every, first_step, run.checkpoints)
  for step in range(first_step + 1, setup.total_steps + 1):
    with times.measure("data_wait"):
      batch = next(batches)
    # The first call compiles; later ones return at once, and the devices compute.
    with times.measure("compilation" if step == first_step + 1 else "compute"):
      state, step_metrics = run.profiler.run(step, setup.train_step, state, batch)
    pending.add(step, step_metrics)
    log.advance(step)
    evaluation_due = setup.is_due(step, config.eval_every_epochs)
    stops = run.should_stop(step)
    save_due = stops or setup.is_due(step, config.checkpoint.every_epochs)
    replicas.check(step, state, is_saved=save_due)
    if step % config.log_every == 0 or evaluation_due or save_due:
      values = pending.check()
      if step % config.log_every == 0 or step == setup.total_steps:
        epoch = {"epoch": step / setup.steps_per_epoch}
        log.train(step, epoch | values | peak_memory() | times.since_last())
    best = None
    if evaluation_due:
      with log.activity("evaluating"), times.measure("evaluation"):
        metrics = evaluate(setup, state.eval_variables, run.dataset)
      log.write(step, _flat(metrics))
      best = setup.task.best(next(iter(metrics.values())))
    if save_due:
      with log.activity("saving"), times.measure("checkpoint"):
        run.folder.require_lock()
        log.sync()
        run.checkpoints.save(
          step,
          state,
          metrics=_flat(metrics) if evaluation_due else None,
          best=best,
          extra=_extra(run, step),
        )
    if stops and step < setup.total_steps:
      run.checkpoints.wait()
      raise Stopped(
        f"stopped at step {step} of {setup.total_steps}, which is saved; give the same command "
        "again to go on"
        if jax.process_index() == 0
        else ""
      )
  return state, metrics


def _extra(run: _Run, step: int) -> dict:
  """What a checkpoint says of itself, and of its weights to whoever takes them elsewhere."""
  config, flat = run.setup.config, flatten(run.setup.config)
  metadata = Metadata.of_run(
    flat,
    run.dataset.num_classes,
    source=pathlib.Path(config.run_dir).resolve().name,
    step=step,
    weights="params" if run.setup.abstract_state.ema is None else "ema",
    class_names=run.dataset.class_names,
    task=config.task,
  )
  versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
  return {"config": flat, "versions": versions, "weights": metadata.to_block()}


def _batches(setup: Setup, dataset: Dataset, first_step: int) -> Iterator[dict]:
  """Global batches on the devices, a few ahead of the step."""
  config, ahead = setup.config, collections.deque()
  host_batches = train_batches(
    dataset,
    config.data,
    seed=config.seed,
    batch_size=config.batch_size,
    first_step=first_step,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )
  for batch in host_batches:  # without end
    ahead.append(sharding.put_batch(batch, setup.mesh))
    if len(ahead) == config.data.prefetch:
      yield ahead.popleft()


def _flat(metrics):
  return {
    f"eval/{metric}_{name}": value
    for name, values in metrics.items()
    for metric, value in values.items()
  }


def _headline(setup, dataset, path, first_step):
  config = setup.config
  is_finished = first_step >= setup.total_steps
  start = f"finished at step {first_step}" if is_finished else f"goes on after step {first_step}"
  return (
    f"{config.model.name} on {config.data.dataset}: {dataset.num_train} training and "
    f"{dataset.num_eval} evaluation images, {dataset.num_classes} classes; "
    f"{setup.total_steps} steps of {config.batch_size} images\n"
    f"{path}: {start if first_step else 'a new run'}"
  )


def _summary(setup, metrics, folder, checkpoints, times):
  first = setup.task.columns[0]
  rows = [
    (
      f"{first.name} with {described(setup.config.evals[name])}",
      f"{first.text(values)}{first.unit} of {values['count']:.0f}",
    )
    for name, values in metrics.items()
  ]
  return [
    *rows,
    *times.summary(),
    ("config", str(folder.config)),
    ("metrics", str(folder.metrics)),
    ("checkpoints", f"{folder.checkpoints} (newest: step {checkpoints.latest_step})"),
    *(
      [("TensorBoard", f"tensorboard --logdir {folder.tensorboard}")]
      if folder.tensorboard.is_dir()
      else []
    ),
    *([("profile", f"xprof --logdir {folder.profile}")] if folder.profile.is_dir() else []),
  ]


def _next_commands(setup, path):
  name = path.name or path.absolute().name  # `--run-dir .`
  run, file = shlex.quote(str(path)), shlex.quote(f"{name}.safetensors")
  # A network without PST is evaluated without the option, whatever its config says.
  top_k = max(each.top_k for each in setup.config.evals.values())
  option = f" --top-k {top_k}" if has_pst(setup.abstract_state.params) else ""
  return [
    f"python -m train.evaluate {run}{option}",
    f"python -m pst_jax convert {run} {file}",
  ]
