"""Metrics of the latest steps: left on the devices until they are looked at, then all checked."""

import math

import jax

from pst_jax.checkpoints.read import flatten
from pst_jax.errors import UserError
from train.run.checkpoints import Checkpoints
from train.step import FINITE, GROUP_NORM

# A step whose loss is finite can still spoil the parameters, and they must not be saved then.
MUST_BE_FINITE = ("loss", "grad_norm", "param_norm")


class StepMetrics:
  """Metrics of the latest steps, left on the device until they are looked at."""

  def __init__(self, checkpoints: Checkpoints, params):
    self._checkpoints = checkpoints
    self._params = params
    self._pending = []

  def add(self, step: int, metrics: dict) -> None:
    self._pending.append((step, metrics))
    if len(self._pending) > 2:
      # The host must not run arbitrarily far ahead of the devices.
      jax.block_until_ready(self._pending[-3])

  def check(self) -> dict[str, float]:
    """The newest metrics.

    Raises:
      UserError: since the last call a step's loss, gradients or parameters were not finite.
    """
    pending, self._pending = jax.device_get(self._pending), []
    for step, metrics in pending:
      finite = metrics.pop(FINITE)
      wrong = [name for name in MUST_BE_FINITE if not math.isfinite(metrics[name])]
      if wrong:
        where = _where(metrics, wrong, self._params, finite)
        last = self._checkpoints.latest_step
        good = f"the last good checkpoint is step {last}" if last else "there is no checkpoint yet"
        raise UserError(
          f"the {wrong[0]} was {metrics[wrong[0]]}{where} at step {step} with learning rate "
          f"{metrics['learning_rate']:.3g}; {good}: lower optim.learning-rate, or clip gradients "
          "with optim.clip-norm, in a new run folder"
        )
    return {name: float(value) for name, value in pending[-1][1].items()}


def _where(metrics: dict, wrong: list[str], params, finite) -> str:
  """In brackets, which logs of the task and which gradients are not finite; they narrow it down."""
  terms = [
    name
    for name, x in metrics.items()
    if name not in wrong and not name.startswith(GROUP_NORM) and not math.isfinite(x)
  ]
  names = list(flatten(params))
  bad = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
  parts = [f"so {'was' if len(terms) == 1 else 'were'} {' and '.join(terms)}"] if terms else []
  if bad:
    parts.append(f"not finite: {len(bad)} of {len(names)} gradients, such as that of {bad[0]}")
  return f" ({'; '.join(parts)})" if parts else ""
