"""What a config file imports, and how it is read.

A config file assigns an instance of `Config` to the name `config`; the command line overrides
single fields (`--optim.learning-rate 0.1`). The resolved config is saved in the run folder.

The `Config` and `DataConfig` here are those of classification; another task's stand in its folder.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import runpy
import typing
from dataclasses import replace

from pst_jax.errors import UserError
from train import schema
from train.config_values import check
from train.schema import CheckpointConfig, EvalConfig, ModelConfig, OptimConfig
from train.tasks import registry
from train.tasks.classification.config import Config, DataConfig

__all__ = [
  "CheckpointConfig",
  "Config",
  "DataConfig",
  "EvalConfig",
  "ModelConfig",
  "OptimConfig",
  "config_files",
  "from_json",
  "load_beside",
  "load_file",
  "replace",
]

_FOLDER = pathlib.Path("configs")


def config_files() -> list[pathlib.Path]:
  """The config files below the folder `configs`."""
  return sorted(_FOLDER.rglob("*.py"))


def load_file(path: str | os.PathLike) -> schema.Config:
  """The `config` of a config file.

  A name such as `digits` or `configs/digits.py` also means the one file of that name anywhere below
  the folder `configs`.

  Raises:
    UserError: there is no such file, or it holds no config, or one with values that cannot be.
  """
  file = _find(pathlib.Path(path))
  if not file.is_file():
    known = [each.as_posix() for each in config_files()]
    raise UserError(
      f"config file {path} was not found: give a path such as {', '.join(known) or 'my_config.py'},"
      " or the folder of a run, which holds its config.json"
    )
  try:
    config = runpy.run_path(str(file)).get("config")
  except Exception as error:
    raise UserError(
      f"config file {file} cannot be run ({type(error).__name__}: {error}): correct it"
    ) from error
  if not isinstance(config, schema.Config):
    raise UserError(f"{file} does not assign `config = train.config.Config(...)`: add that line")
  check(config)
  return config


def load_beside(file: str, name: str) -> schema.Config:
  """The `config` of another file in the same folder, for a config file that changes it:

  >>> paper = load_beside(__file__, "imagenet_r50_cls_pst.py")
  >>> config = replace(paper, seed=1)
  """
  return load_file(pathlib.Path(file).with_name(name))


def _find(path: pathlib.Path) -> pathlib.Path:
  if path.exists() or path.parent not in (pathlib.Path(), _FOLDER):
    return path
  found = [each for each in config_files() if each.stem == path.name.removesuffix(".py")]
  return found[0] if len(found) == 1 else path


def from_json(text: str) -> schema.Config:
  """The config that `to_json` wrote; one without a task, as of old, is of classification.

  Raises:
    UserError: for text that is no config, naming the field.
  """
  try:
    values = json.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(f"the saved config is no valid JSON: {error}") from None
  task = values.pop("task", Config.task) if isinstance(values, dict) else Config.task
  kind = Config if task == Config.task else registry.find(task).config
  return _from_dict(kind, values, "")


def _from_dict(kind, values, prefix):
  types = typing.get_type_hints(kind)
  if not isinstance(values, dict):
    where = f"{prefix.rstrip('.')} in the saved config" if prefix else "the saved config"
    raise UserError(f"{where} is {values!r}, but it must be a table of fields")
  for name in values:
    if name not in types:
      close = difflib.get_close_matches(name, types, n=1) or list(types)
      raise UserError(f"the saved config has an unknown field {prefix}{name}: is it {close[0]}?")
  return kind(**{name: _value(types[name], v, f"{prefix}{name}.") for name, v in values.items()})


def _value(kind, value, prefix):
  if dataclasses.is_dataclass(kind):
    return _from_dict(kind, value, prefix)
  if typing.get_origin(kind) is dict and isinstance(value, dict):
    inner = typing.get_args(kind)[1]
    return {name: _value(inner, each, f"{prefix}{name}.") for name, each in value.items()}
  return tuple(value) if isinstance(value, list) else value
