"""The values of any config: flat by name, checked, compared, and as JSON."""

import dataclasses
import json
import re
import types
import typing
from typing import ClassVar, Literal

from pst_jax.errors import UserError
from pst_jax.ranges import violations
from train.schema import RESUME_MAY_CHANGE, Config


def flatten(config: Config) -> dict:
  """{"batch_size": 256, "model.name": "r18-cls-pst", "evals.fine.top_k": 8, ...}."""
  return _flat(_as_dict(config), "")


def _flat(values: dict, prefix: str) -> dict:
  flat = {}
  for name, value in values.items():
    nested = isinstance(value, dict)
    flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
  return flat


def _as_dict(config: Config) -> dict:
  values = dataclasses.asdict(config)
  del values["eval_top_k"]  # it is in `evals`
  return values


def check(config: Config) -> None:
  """Raises UserError for a config that cannot be trained with."""
  check_values(config)
  if problem := config.contradiction():
    raise UserError(problem)


def check_values(config, prefix: str = "") -> None:
  """Raises UserError for a value of a config, or of a part of one, of a wrong type or range."""
  _check_types(config, prefix)
  for name, value, expected in violations(config, prefix):
    raise UserError(f"{name} is {value!r}, but it must be {expected}")
  if isinstance(config, Config):
    if not config.evals or not all(re.fullmatch(r"[\w.-]+", name) for name in config.evals):
      raise UserError(
        f"evals is {list(config.evals)!r}, but it must be one or more evaluations with names of "
        "letters and digits"
      )
    for name, each in config.evals.items():
      check_values(each, f"evals.{name}.")


def _check_types(config, prefix=""):
  for name, kind in typing.get_type_hints(type(config)).items():
    if typing.get_origin(kind) is ClassVar:
      continue
    value = getattr(config, name)
    if not _fits(value, kind):
      expected = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
      raise UserError(f"{prefix}{name} is {value!r}, but its type must be {expected}")
    if dataclasses.is_dataclass(kind):
      _check_types(value, f"{name}.")


def _fits(value, kind) -> bool:
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    return value in inner
  if origin is types.UnionType:
    return any(_fits(value, each) for each in inner)
  if origin is dict:
    return isinstance(value, dict) and all(
      _fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items()
    )
  if origin is tuple:
    if not isinstance(value, tuple):
      return False
    inner = inner[:1] * len(value) if inner[-1] is ... else inner
    return len(value) == len(inner) and all(map(_fits, value, inner))
  if isinstance(value, bool):
    return kind is bool
  return isinstance(value, int | float if kind is float else kind)


def to_json(config: Config) -> str:
  return json.dumps({"task": config.task} | _as_dict(config), indent=2)


def difference(
  old: Config, new: Config, may_differ: frozenset[str] = RESUME_MAY_CHANGE
) -> list[str]:
  """Lines "name: old -> new" of the fields that must not differ, by default in a resumed run."""
  before, after = _comparable(old), _comparable(new)
  return [
    f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
    for name in {**before, **after}
    if before.get(name) != after.get(name) and name not in may_differ
  ]


def _comparable(config: Config) -> dict:
  """The fields by name; evaluations without their names, which change no result."""
  values = {n: v for n, v in flatten(config).items() if not n.startswith("evals.")}
  evals = [
    f"top_k {each.top_k}" + (f" {each.selection}" if each.selection else "")
    for each in config.evals.values()
  ]
  return {"task": config.task, **values, "evals": ", ".join(evals)}
