"""The observers by name."""

import importlib
import importlib.util

from pst_jax.errors import UserError
from train.run.observers.base import Observer

OBSERVERS = {
  "wandb": "train.run.observers.wandb:Wandb",
  "mlflow": "train.run.observers.mlflow:Mlflow",
  "trackio": "train.run.observers.trackio:Trackio",
}
"""Name of an observer, as a config's `loggers` gives it, and the "module:class" that it is."""


def find(name: str) -> Observer:
  """The observer of a name in `OBSERVERS`, or of a "module:class" of one's own."""
  module, _, kind = OBSERVERS.get(name, name).partition(":")
  return getattr(importlib.import_module(module), kind)()


def require_installed(names: list[str]) -> None:
  """Raises UserError for an observer whose package is not installed; imports none of them."""
  for name in names:
    package = name.partition(":")[0]
    try:
      spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # the package of a module; a name that begins with a dot
      spec = None
    # A folder `wandb`, as wandb leaves one, has a spec too, but no file.
    if spec is None or spec.origin is None:
      advice = (
        f"pip install {name}, or leave it out of --loggers"
        if name in OBSERVERS
        else "give module:class, with the module's folder on PYTHONPATH"
      )
      raise UserError(f"loggers has {name}, but {package} is not installed: {advice}")
