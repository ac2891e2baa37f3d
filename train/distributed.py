"""Joining the processes of a run: by the cluster's environment, or by options elsewhere."""

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator
from typing import Annotated

from typing_extensions import Doc

from train.command import Stopped, describe, report
from train.config import ConfigError

# A collective fails in the moment in which a process is lost: the watch, which knows more, goes
# first.
_GRACE_SECONDS = 3.0

ShouldStop = Callable[[int], bool]
"""step -> whether all processes must save and stop after it; ask at every step."""


@dataclasses.dataclass(frozen=True)
class Processes:
  """How this process finds the others of its run; no part of the experiment's config."""

  coordinator: Annotated[
    str | None,
    Doc(
      "HOST:PORT of process 0, which the others can reach. Several processes: give this, "
      "--num-processes and --process-id to each; TPU pods, SLURM (srun), Open MPI and indexed "
      "Kubernetes jobs need none of them."
    ),
  ] = None
  num_processes: Annotated[
    int | None, Doc("Processes of the run; 1: alone, also in a cluster.")
  ] = None
  process_id: Annotated[int | None, Doc("Which of them this is, from 0.")] = None
  heartbeat_timeout: Annotated[
    int, Doc("Seconds without a sign of life after which a process is taken for lost.")
  ] = 100
  join_timeout: Annotated[int, Doc("Seconds to wait for the other processes at the start.")] = 300


def add_options(parser: argparse.ArgumentParser) -> None:
  """The fields of `Processes` as options of a command that reads its own with argparse."""
  group = parser.add_argument_group("several processes")
  hints = typing.get_type_hints(Processes, include_extras=True)
  for field in dataclasses.fields(Processes):
    (doc,) = hints[field.name].__metadata__
    text = field.name == "coordinator"
    default = "" if field.default is None else f" (default: {field.default})"
    group.add_argument(
      _option(field.name),
      type=str if text else int,
      metavar="HOST:PORT" if text else "N",
      default=field.default,
      help=doc.documentation + default,
    )


def from_options(options: argparse.Namespace) -> Processes:
  names = [field.name for field in dataclasses.fields(Processes)]
  return Processes(**{name: getattr(options, name) for name in names})


@contextlib.contextmanager
def joined(processes: Processes, saves_on_sigterm: bool = True) -> Iterator[ShouldStop]:
  """Joins the other processes before JAX is first used, and parts from them at the end.

  While it lasts, SIGTERM to any process makes the yielded function true at the same step in all of
  them. A process that fails or dies takes the others with it at once; see `watch`.

  Args:
    processes: the options.
    saves_on_sigterm: False: SIGTERM ends the process, as ever.

  Raises:
    ConfigError: the options do not fit together, or the processes did not find each other.
  """
  _check(processes)
  if not _is_together(processes):
    with _sigterm_noted() if saves_on_sigterm else contextlib.nullcontext(_never) as should_stop:
      yield should_stop
    return
  _initialize(processes, saves_on_sigterm)
  import jax
  from jax._src import distributed
  from jax.experimental import multihost_utils

  from train.watch import Watch

  state = distributed.global_state
  host = state.coordinator_address.rpartition(":")[0].strip("[]")
  watch = Watch(state.client, host, state.process_id, state.num_processes)
  should_stop = multihost_utils.reached_preemption_sync_point if saves_on_sigterm else _never
  stopped = None
  try:
    try:
      yield should_stop
    except Stopped as stop:
      stopped = stop
    jax.distributed.shutdown()  # waits for all
  except BaseException as error:
    if not isinstance(error, ConfigError | KeyboardInterrupt):
      time.sleep(_GRACE_SECONDS)
    code = report(error)
    watch.announce(describe(error), code)
    sys.stdout.flush()
    # The usual end would wait for the others, which cannot come.
    os._exit(code)
  watch.part()
  if stopped:
    raise stopped


def _check(processes: Processes) -> None:
  values = dataclasses.asdict(processes)
  for name in ("heartbeat_timeout", "join_timeout"):
    if values[name] < 1:
      raise ConfigError(f"{_option(name)} is {values[name]}, but it must be 1 or more seconds")
  if processes.num_processes is not None and processes.num_processes < 1:
    raise ConfigError(f"--num-processes is {processes.num_processes}, but it must be 1 or more")
  needed = ("coordinator", "num_processes", "process_id")
  missing = [name for name in needed if values[name] is None]
  if len(missing) == 3 or (processes.num_processes == 1 and missing):
    return
  if missing:
    raise ConfigError(
      f"a run of several processes needs {', '.join(map(_option, needed))} in each of them: give "
      f"{' and '.join(map(_option, missing))} too"
    )
  if not 0 <= processes.process_id < processes.num_processes:
    raise ConfigError(
      f"--process-id is {processes.process_id}, but with --num-processes "
      f"{processes.num_processes} it must be a number from 0 to {processes.num_processes - 1}"
    )
  host, _, port = processes.coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ConfigError(
      f"--coordinator is {processes.coordinator!r}, but it must be HOST:PORT, e.g. 10.0.0.1:1234"
    )


def _option(name: str) -> str:
  return f"--{name.replace('_', '-')}"


def _is_together(processes: Processes) -> bool:
  if processes.num_processes is not None:
    return processes.num_processes > 1
  from jax._src.clusters import ClusterEnv

  # What `jax.distributed.initialize` itself asks when it is given nothing.
  kinds = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method]
  return any(kind.is_env_present() for kind in kinds)


def _initialize(processes: Processes, saves_on_sigterm: bool) -> None:
  import jax

  # Without this service SIGTERM keeps its usual meaning.
  jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
  by_options = processes.num_processes is not None
  where = f" at {processes.coordinator}" if by_options else ""
  sentence = f"the processes of this run did not come together{where}"
  advice = (
    "start all of them, with the address of process 0 and a free port there"
    if by_options
    else "start all of them, or give --num-processes 1 to train in this one alone"
  )

  def give_up():
    late = ConfigError(f"{sentence} within {processes.join_timeout} s: {advice}")
    os._exit(report(late))

  # JAX would abort with a stack trace at its own timeout, which therefore comes later.
  timer = threading.Timer(processes.join_timeout, give_up)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      processes.coordinator,
      processes.num_processes,
      processes.process_id,
      cluster_detection_method="deactivate" if by_options else None,
      initialization_timeout=processes.join_timeout + 60,
      heartbeat_timeout_seconds=processes.heartbeat_timeout,
    )
  except Exception as error:
    raise ConfigError(f"{sentence} ({describe(error)}): {advice}") from error
  finally:
    timer.cancel()


def _never(step: int) -> bool:
  del step
  return False


@contextlib.contextmanager
def _sigterm_noted() -> Iterator[ShouldStop]:
  """In a single process: the first SIGTERM is noted, a second one ends the process at once."""
  noted = []

  def note(number, frame):
    noted.append(number)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

  before = signal.signal(signal.SIGTERM, note)
  try:
    yield lambda step: bool(noted)
  finally:
    signal.signal(signal.SIGTERM, before)
