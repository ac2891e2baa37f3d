"""Names of the networks, and what each is made of."""

import dataclasses
import difflib
import fnmatch
import math
import numbers

import jax.numpy as jnp

from pst_jax import ops
from pst_jax.models.classifier import ResNetClassifier
from pst_jax.models.network import Network
from pst_jax.models.remat import REMAT_POLICIES
from pst_jax.models.yolo11 import Yolo11Classifier

# name of the depth: (blocks of each stage, kind of block, channels of the neck)
_DEPTHS = {
  "18": ((2, 2, 2, 2), "basic", 256),
  "26": ((2, 2, 2, 2), "bottleneck", 256),
  "34": ((3, 4, 6, 3), "basic", 256),
  "50": ((3, 4, 6, 3), "bottleneck", 256),
  "101": ((3, 4, 23, 3), "bottleneck", 512),
}
# The paper's "ResNet-18" has bottleneck blocks: it is what others call ResNet-26.
_PAPER = {"18": "26", "50": "50", "101": "101"}


def _network(depth, family, with_neck):
  stage_sizes, block, neck_features = _DEPTHS[depth]
  return {
    "stage_sizes": stage_sizes,
    "block": block,
    "neck_features": neck_features if with_neck else None,
    "family": family,
  }


# scale of channels, largest channels before it, C3k units everywhere
_YOLO11 = {"n": (0.25, 1024, False), "s": (0.5, 1024, False), "m": (1.0, 512, True)}


def _yolo11(scale, max_channels, always_c3k):
  return {
    "family": "yolo11",
    "scale": scale,
    "max_channels": max_channels,
    "always_c3k": always_c3k,
  }


_NETWORKS = {
  **{f"r{name}-cls-pst": _network(depth, "paper", True) for name, depth in _PAPER.items()},
  **{f"yolo11{size}-cls-pst": _yolo11(*layout) for size, layout in _YOLO11.items()},
  **{f"resnet{depth}": _network(depth, "torchvision", False) for depth in _DEPTHS},
  **{f"resnet{depth}_pst": _network(depth, "torchvision", True) for depth in _DEPTHS},
}


def list_models(pattern: str = "*") -> list[str]:
  """Names of networks that match a shell pattern, e.g. `list_models("*pst*")`."""
  return [name for name in _NETWORKS if fnmatch.fnmatch(name, pattern)]


def model_options() -> tuple[str, ...]:
  """Names of the options that `create_model` takes for every network."""
  fixed = {"num_classes", "family", "parent", "name"}
  return tuple(f.name for f in dataclasses.fields(Network) if f.name not in fixed)


def check_model_name(name: str) -> None:
  """Raises ValueError with the closest names for one that is unknown."""
  if name not in list(_NETWORKS):
    close = difflib.get_close_matches(str(name), _NETWORKS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? All: " if close else "choose one of "
    raise ValueError(f"model {name!r} is unknown: {hint}{', '.join(_NETWORKS)}")


def create_model(name: str, num_classes: int = 1000, **options) -> Network:
  """A network as a Flax module without parameters.

  >>> model = create_model("resnet18_pst", num_classes=10, stem="small", width=0.25)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

  Args:
    name: one of `list_models()`.
    num_classes: length of the logits.
    **options: fields of `Network`: top_k, dtype, group_size (examples that share BatchNorm
      statistics; None: the whole batch), dropout, stem, width, remat, remat_policy, selection,
      coarse_implementation, epsilon, momentum, folded (see `fold_batch_norm`).

  Raises:
    ValueError: unknown name, unknown option, or a value that cannot be.
  """
  check_model_name(name)
  for option in options:
    if option not in model_options():
      raise ValueError(
        f"option {option!r} of model {name} is unknown: the options are "
        f"{', '.join(model_options())}"
      )
  fixed = _NETWORKS[name]
  network = Yolo11Classifier if fixed["family"] == "yolo11" else ResNetClassifier
  model = network(num_classes=num_classes, **fixed, **options)
  _check_values(model)
  return model


def _is_whole(value, least):
  return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def _is_number(value):
  return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


_ABOVE_0 = lambda v: _is_number(v) and v > 0, "a number above 0"
_SHARE = lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 to below 1"
_TRUE_OR_FALSE = lambda v: isinstance(v, bool), "True or False"
_RULES = {
  "num_classes": (lambda v: _is_whole(v, 1), "a whole number from 1"),
  "top_k": (lambda v: _is_whole(v, 0), "a whole number from 0"),
  "group_size": (lambda v: v is None or _is_whole(v, 1), "a whole number from 1, or None"),
  "width": _ABOVE_0,
  "epsilon": _ABOVE_0,
  "momentum": _SHARE,
  "dropout": _SHARE,
  "stem": (lambda v: v in ("imagenet", "small"), "'imagenet' or 'small'"),
  "remat": _TRUE_OR_FALSE,
  "remat_policy": (lambda v: v in REMAT_POLICIES, f"one of {', '.join(REMAT_POLICIES)}"),
  "folded": _TRUE_OR_FALSE,
  "selection": (callable, "a function (scores, k, key) -> indices"),
  "dtype": (
    lambda v: v is not None and jnp.issubdtype(jnp.dtype(v), jnp.floating),
    "a floating type such as jnp.bfloat16",
  ),
  "coarse_implementation": (
    lambda v: v in ops.COARSE_IMPLEMENTATIONS,
    f"one of {', '.join(ops.COARSE_IMPLEMENTATIONS)}",
  ),
}


def _check_values(model):
  for option, (is_allowed, expected) in _RULES.items():
    value = getattr(model, option)
    try:
      allowed = is_allowed(value)
    except TypeError:
      allowed = False
    if not allowed:
      raise ValueError(f"{option}={value!r} was given, but it must be {expected}")
