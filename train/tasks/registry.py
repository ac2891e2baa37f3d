"""The tasks by name."""

import importlib
from typing import TYPE_CHECKING

from pst_jax.errors import UserError

if TYPE_CHECKING:  # `base` imports the data pipeline, which configs need not wait for
  from train.tasks.base import Task

TASKS = {name: f"train.tasks.{name}.task:TASK" for name in ("classification", "detection")}
"""Name of a task, as a config's `task` gives it, and the "module:object" that it is."""


def find(name: str) -> "Task":
  """The task of a name in `TASKS`, or of a "module:object" of one's own.

  Raises:
    UserError: there is no such task.
  """
  module, separator, attribute = TASKS.get(name, name).partition(":")
  if not separator:
    raise UserError(f"task {name!r} is unknown: choose {', '.join(TASKS)}, or give module:object")
  try:
    return getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise UserError(
      f"task {name!r} cannot be imported ({error}): give the module and the name of a task, with "
      "the module's folder on PYTHONPATH"
    ) from error
