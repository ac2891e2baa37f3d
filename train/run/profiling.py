"""Some steps of a run, traced with JAX's profiler (`profile_steps`)."""

import contextlib
import logging
import pathlib
from collections.abc import Callable

import jax
from jaxtyping import PyTree

from pst_jax.buckets import is_url
from pst_jax.errors import UserError
from train.schema import Config, profile_range

_log = logging.getLogger(__name__)


class Profiler(contextlib.AbstractContextManager):
  """Traces the steps of `config.profile_steps`; a context manager that ends a trace on every exit.

  A resumed run traces those of the steps that it still has to do; only one process is `enabled`.

  Raises:
    UserError: the run has no such steps.
  """

  def __init__(
    self, config: Config, total_steps: int, directory: pathlib.Path, *, enabled: bool = True
  ):
    steps = profile_range(config.profile_steps)
    if steps and is_url(directory):
      raise UserError(
        f"profile_steps is {config.profile_steps}, but JAX's profiler writes to a disk only, and "
        f"run_dir is {config.run_dir}: leave it out, or choose a local --run-dir"
      )
    if steps and steps[-1] > total_steps:
      raise UserError(
        f"profile_steps is {config.profile_steps}, but the run ends with step {total_steps}: "
        "choose steps inside it"
      )
    self._steps = steps if enabled else range(0)
    self._directory = directory
    self._is_tracing = False

  def __exit__(self, kind, error, traceback) -> None:
    self._stop()

  def run(self, step: int, function: Callable, *arguments: PyTree) -> PyTree:
    """Returns `function(*arguments)`, which does that step of the training.

    Steps are waited for before the trace begins and before it ends, so that it is whole.
    """
    if step not in self._steps:
      return function(*arguments)
    if not self._is_tracing:
      jax.block_until_ready(arguments)
      jax.profiler.start_trace(self._directory)
      self._is_tracing = True
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      outputs = function(*arguments)
    if step == self._steps[-1]:
      jax.block_until_ready(outputs)
      self._stop()
    return outputs

  def _stop(self) -> None:
    if not self._is_tracing:
      return
    self._is_tracing = False
    try:
      jax.profiler.stop_trace()
    except Exception as error:  # a trace that cannot be written is no reason to end a run
      _log.warning("The profile could not be written to %s (%s).", self._directory, error)
