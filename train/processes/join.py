"""Joining the processes of a run: by the cluster's environment, or by options elsewhere."""

import argparse
import contextlib
import dataclasses
import logging
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from typing import Annotated

from typing_extensions import Doc

from pst_jax.errors import INTERRUPTED, Stopped, UserError, describe, report
from pst_jax.ranges import Range, violations
from train.processes.lines import open_lines
from train.processes.stopping import Stopping, patient_output, say, signals
from train.processes.watchdog import Watchdog, watch_stalls
from train.run.timing import Times

# A collective fails in the moment in which a process is lost: the watchdog, which knows which one,
# gets the time to say so first.
_GRACE_SECONDS = 3.0
# A silent process is named before JAX aborts the others, with a stack trace, for the same reason.
_SILENCE = 0.8

_SECONDS = Range("1 or more seconds", lambda v: v >= 1)

_log = logging.getLogger(__name__)

ShouldStop = Callable[[int], bool]
"""step -> whether all processes must save and stop after it; ask at every step."""


@dataclasses.dataclass(frozen=True)
class Processes:
  """How this process finds the others of its run; no part of the experiment's config."""

  coordinator: Annotated[
    str | None,
    Doc(
      "HOST:PORT of process 0, which the others can reach. Several processes: give this, "
      "--num-processes and --process-id to each; TPU pods, SLURM (srun) and Open MPI need none of "
      "them, nor do indexed Kubernetes jobs with jax[k8s] and an account that may read pods."
    ),
  ] = None
  num_processes: Annotated[
    int | None,
    Doc("Processes of the run; 1: alone, also in a cluster."),
    Range("1 or more", lambda v: v is None or v >= 1),
  ] = None
  process_id: Annotated[int | None, Doc("Which of them this is, from 0.")] = None
  heartbeat_timeout: Annotated[
    int, Doc("Seconds without a sign of life after which a process is taken for lost."), _SECONDS
  ] = 100
  join_timeout: Annotated[
    int, Doc("Seconds to wait for the other processes at the start."), _SECONDS
  ] = 300
  stall_minutes: Annotated[
    float,
    Doc(
      "Minutes without a step after which a run that hangs writes the stacks of all processes to "
      "its folder and stops; while compiling, evaluating or saving four times as many."
    ),
    Range("0.01 or more", lambda v: v >= 0.01),
  ] = 15.0


def add_options(parser: argparse.ArgumentParser) -> None:
  """The fields of `Processes` as options of a command that reads its own with argparse."""
  group = parser.add_argument_group("several processes")
  hints = typing.get_type_hints(Processes, include_extras=True)
  for field in dataclasses.fields(Processes):
    doc, *_ = hints[field.name].__metadata__
    kind = {"coordinator": str, "stall_minutes": float}.get(field.name, int)
    default = "" if field.default is None else f" (default: {field.default})"
    group.add_argument(
      _option(field.name),
      type=kind,
      metavar="HOST:PORT" if kind is str else "N",
      default=field.default,
      help=doc.documentation + default,
    )


def from_options(options: argparse.Namespace) -> Processes:
  names = [field.name for field in dataclasses.fields(Processes)]
  return Processes(**{name: getattr(options, name) for name in names})


@contextlib.contextmanager
def init_processes(
  processes: Processes, run_dir: pathlib.Path | None = None, times: Times | None = None
) -> Iterator[ShouldStop]:
  """Joins the other processes before JAX is first used, and parts from them at the end.

  A process that fails, dies or hangs takes the others with it; see `watchdog`. In a training run
  every way to ask one process for an end becomes a stop of all after the same step, at which the
  yielded function is true; see `stopping`.

  Args:
    processes: the options.
    run_dir: of the training run; None: this command saves nothing, and signals end it as ever.
    times: of the training run, which are watched for stalls.

  Raises:
    UserError: the options do not fit together, or the processes did not find each other.
  """
  _check(processes)
  with _ctrl_c_ends_at_once() if run_dir else contextlib.nullcontext():
    joined = _join(processes)
    watch, stopping = _watch(processes, run_dir, joined)
  with contextlib.ExitStack() as stack:
    if run_dir:
      stack.enter_context(_noting_requests(watch, stopping))
    if times:
      stack.enter_context(watch_stalls(watch, times, processes.stall_minutes, run_dir))
    if joined:
      stack.enter_context(_parting_together(watch, stopping))
    try:
      yield stopping.should_stop
    except Stopped as stop:
      stop.signal = stopping.signal
      raise


@contextlib.contextmanager
def _parting_together(watch: Watchdog, stopping: Stopping) -> Iterator[None]:
  """Ends JAX's service when all have come to their end; an error goes to all other processes."""
  import jax

  try:
    stopped = None
    try:
      yield
    except Stopped as stop:
      stopped = stop
    stopping.close()
    jax.distributed.shutdown()  # waits for all
  except BaseException as error:
    if not isinstance(error, UserError | KeyboardInterrupt):
      time.sleep(_GRACE_SECONDS)
    code = report(error)
    watch.announce(describe(error), code)
    sys.stdout.flush()
    # The usual end would wait for the others, which cannot come.
    os._exit(code)
  watch.part()
  if stopped:
    raise stopped


@contextlib.contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
  """Until the processes are together, while the main thread waits where no handler runs."""

  def leave(number):
    say(INTERRUPTED)
    os._exit(128 + number)

  with signals(leave, leave, numbers=(signal.SIGINT,)):
    yield


@contextlib.contextmanager
def _noting_requests(watch: Watchdog, stopping: Stopping) -> Iterator[None]:
  def at_once(number):
    say("stopped at once, without saving; give the same command again to go on")
    watch.announce(describe(KeyboardInterrupt()), 128 + number)
    os._exit(128 + number)

  with (
    signals(stopping.request, at_once),
    patient_output(lambda: stopping.request(signal.SIGPIPE)),
  ):
    yield


def _check(processes: Processes) -> None:
  for name, value, expected in violations(processes):
    raise UserError(f"{_option(name)} is {value}, but it must be {expected}")
  needed = ("coordinator", "num_processes", "process_id")
  missing = [name for name in needed if getattr(processes, name) is None]
  if len(missing) == 3 or (processes.num_processes == 1 and missing):
    return
  if missing:
    raise UserError(
      f"a run of several processes needs {', '.join(map(_option, needed))} in each of them: give "
      f"{' and '.join(map(_option, missing))} too"
    )
  if not 0 <= processes.process_id < processes.num_processes:
    raise UserError(
      f"--process-id is {processes.process_id}, but with --num-processes "
      f"{processes.num_processes} it must be a number from 0 to {processes.num_processes - 1}"
    )
  host, _, port = processes.coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(
      f"--coordinator is {processes.coordinator!r}, but it must be HOST:PORT, e.g. 10.0.0.1:1234"
    )


def _option(name: str) -> str:
  return f"--{name.replace('_', '-')}"


def _join(processes: Processes) -> bool:
  """Finds the other processes; False: this one is alone."""
  if processes.num_processes == 1:
    return False
  import jax

  # It would take SIGTERM for itself alone; see `stopping`.
  jax.config.update("jax_enable_preemption_service", False)
  by_options = processes.num_processes is not None
  where = f" at {processes.coordinator}" if by_options else ""
  sentence = f"the processes of this run did not come together{where}"
  advice = (
    "start all of them, with the address of process 0 and a free port there"
    if by_options
    else "start all of them, or give --num-processes 1 to train in this one alone"
  )

  def give_up():
    late = UserError(f"{sentence} within {processes.join_timeout} s: {advice}")
    os._exit(report(late))

  # JAX would abort with a stack trace at its own timeout, which therefore comes later.
  timer = threading.Timer(processes.join_timeout, give_up)
  timer.daemon = True
  timer.start()
  _allow_many_files()
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
    # No cluster was found (ValueError), or JAX has been used in this process before.
    in_use = isinstance(error, RuntimeError) and not isinstance(error, jax.errors.JaxRuntimeError)
    is_alone = not by_options and (in_use or isinstance(error, ValueError))
    if is_alone and not _is_of_a_cluster(error):
      return False
    raise UserError(f"{sentence} ({describe(error)}): {advice}") from error
  finally:
    timer.cancel()
  return True


def _is_of_a_cluster(error: Exception) -> bool:
  """Whether JAX's code for a kind of cluster raised it: no process must then train alone."""
  files = [pathlib.Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
  return any(file.parent.name == "clusters" and file.stem != "cluster" for file in files)


def _allow_many_files() -> None:
  """Process 0 keeps connections to all others, and systemd and many shells allow 1,024 files."""
  with contextlib.suppress(ImportError, ValueError, OSError):
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _watch(
  processes: Processes, run_dir: pathlib.Path | None, joined: bool
) -> tuple[Watchdog, Stopping]:
  store, lines, members = None, {}, (0, 1)
  if joined:
    # The one private access to JAX: there is no public way to its key-value store, nor to the
    # address of the coordinator where the cluster's environment gave it.
    from jax._src.distributed import global_state as state

    store, members = state.client, (state.process_id, state.num_processes)
    try:
      lines = open_lines(store, state.coordinator_address, *members)
    except (OSError, RuntimeError) as error:
      _log.warning(
        "process %d has no line to the others (%s): the loss of a process will be noticed after "
        "the heartbeat's timeout only",
        members[0],
        str(error).partition("\n")[0],
      )
  watch = Watchdog(
    lines,
    *members,
    silence=_SILENCE * processes.heartbeat_timeout,
    stacks=run_dir and run_dir / f"stacks-{members[0]}.txt",
  )
  return watch, Stopping(watch, store, *members)
