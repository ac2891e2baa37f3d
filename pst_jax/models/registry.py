"""Names of the networks, and what each is made of."""

import dataclasses
import fnmatch
from typing import Literal

from pst_jax import ops
from pst_jax.architectures import DEPTHS, NUM_CLASSES, PAPER, YOLO11, check_name
from pst_jax.errors import UserError
from pst_jax.models.network import Network
from pst_jax.models.resnet_classifier import ResNetClassifier
from pst_jax.models.resnet_detector import ResNetDetector
from pst_jax.models.yolo11_classifier import Yolo11Classifier
from pst_jax.models.yolo11_detector import Yolo11Detector
from pst_jax.ranges import violations


def _resnet(depth, family, with_neck):
  stage_sizes, block, neck_features = DEPTHS[depth]
  fields = {"stage_sizes": stage_sizes, "block": block, "family": family}
  return ResNetClassifier, fields | {"neck_features": neck_features if with_neck else None}


def _resnet_detector(name):
  stage_sizes, _, coarsest = DEPTHS[PAPER[name]]
  features = (coarsest // 4, coarsest // 2, coarsest)
  fields = {"stage_sizes": stage_sizes, "neck_features": features, "family": "paper_detector"}
  return ResNetDetector, fields


def _yolo11(size):
  return Yolo11Classifier, {"size": size, "family": "yolo11"}


def _yolo11_detector(size, with_pst):
  family = "yolo11_pst_detector" if with_pst else "yolo11_detector"
  return Yolo11Detector, {"size": size, "with_pst": with_pst, "family": family}


# name: (class, its fixed fields)
_NETWORKS = {
  **{f"r{name}-cls-pst": _resnet(depth, "paper", True) for name, depth in PAPER.items()},
  **{f"yolo11{name}-cls-pst": _yolo11(size) for name, size in YOLO11.items()},
  **{f"resnet{depth}": _resnet(depth, "torchvision", False) for depth in DEPTHS},
  **{f"resnet{depth}_pst": _resnet(depth, "torchvision", True) for depth in DEPTHS},
  **{f"r{name}-pst": _resnet_detector(name) for name in PAPER},
  **{f"yolo11{name}-pst": _yolo11_detector(size, True) for name, size in YOLO11.items()},
  **{f"yolo11{name}": _yolo11_detector(size, False) for name, size in YOLO11.items()},
}


def list_models(pattern: str = "*") -> list[str]:
  """Names of networks that match a shell pattern, e.g. `list_models("*pst*")`."""
  return [name for name in _NETWORKS if fnmatch.fnmatch(name, pattern)]


def task_of(name: str) -> Literal["classification", "detection"]:
  """What a network is for; UserError for an unknown name."""
  check_model_name(name)
  return _NETWORKS[name][0].task


def model_options(name: str | None = None) -> tuple[str, ...]:
  """Names of the options that `create_model` takes for a network (None: for every one)."""
  if name is not None:
    check_model_name(name)
  network, fixed = (Network, {}) if name is None else _NETWORKS[name]
  hidden = {"num_classes", "family", "parent", "name", *fixed}
  return tuple(f.name for f in dataclasses.fields(network) if f.name not in hidden)


def check_model_name(name: str) -> None:
  """Raises UserError with the closest names for one that is unknown."""
  check_name(name, _NETWORKS)


def create_model(name: str, num_classes: int | None = None, **options) -> Network:
  """A network as a Flax module without parameters.

  >>> model = create_model("resnet18_pst", num_classes=10, stem="small", width=0.25)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

  Args:
    name: one of `list_models()`.
    num_classes: classes that are told apart; None: 1000 of a classifier, 80 of a detector.
    **options: fields of `Network`: top_k, dtype, group_size (examples that share BatchNorm
      statistics; None: the whole batch), width, remat, remat_policy, selection,
      coarse_implementation, epsilon, momentum, folded (see `fold_batch_norm`); of a classifier
      also dropout and stem, of a ResNet stochastic_depth.

  Raises:
    UserError: unknown name, unknown option, or a value that cannot be.
  """
  check_model_name(name)
  allowed = model_options(name)
  for option in options:
    if option not in allowed:
      raise UserError(
        f"option {option!r} of model {name} is unknown: the options are {', '.join(allowed)}"
      )
  network, fixed = _NETWORKS[name]
  classes = NUM_CLASSES[network.task] if num_classes is None else num_classes
  model = network(num_classes=classes, **fixed, **options)
  for violation in violations(model):
    raise UserError(
      f"{violation.name}={violation.value!r} was given, but it must be {violation.expected}"
    )
  ops.find_selection(model.selection)
  return model
