"""Names of the networks and what each is made of."""

import fnmatch
from functools import partial

from pst_jax.architectures import DEPTHS, NUM_CLASSES, PAPER, YOLO11, check_name
from pst_jax.errors import UserError
from pst_jax.torch.classifiers import ReferenceNetwork, Yolo11
from pst_jax.torch.detectors import ReferenceDetector, Yolo11Detector, Yolo11PSTDetector
from pst_jax.torch.network import Network, Options
from pst_jax.torch.resnet import STEMS, ResNet


def _reference(network, name):
  blocks, _, pst_channels = DEPTHS[PAPER[name]]
  return partial(network, blocks, pst_channels)


DETECTORS = (
  {f"r{name}-pst": _reference(ReferenceDetector, name) for name in PAPER}
  | {f"yolo11{name}-pst": partial(Yolo11PSTDetector, size) for name, size in YOLO11.items()}
  | {f"yolo11{name}": partial(Yolo11Detector, size) for name, size in YOLO11.items()}
)
_ALL = (
  {f"r{name}-cls-pst": _reference(ReferenceNetwork, name) for name in PAPER}
  | {f"resnet{name}": partial(ResNet, *depth[:2], None) for name, depth in DEPTHS.items()}
  | {f"resnet{name}_pst": partial(ResNet, *depth) for name, depth in DEPTHS.items()}
  | {f"yolo11{name}-cls-pst": partial(Yolo11, size) for name, size in YOLO11.items()}
  | DETECTORS
)


def list_models(pattern: str = "*") -> list[str]:
  """Names of networks that match a shell pattern, e.g. `list_models("*pst*")`."""
  return [name for name in _ALL if fnmatch.fnmatch(name, pattern)]


def create_model(
  name: str,
  num_classes: int | None = None,
  top_k: int = 0,
  *,
  width: float = 1.0,
  **options,
) -> Network:
  """The network called `name` as a `torch.nn.Module`, with freshly initialised parameters.

  >>> model = create_model("r18-cls-pst").eval()
  >>> logits = model.set_top_k(8)(torch.zeros(1, 3, 224, 224))

  Args:
    name: one of `list_models()`.
    num_classes: classes that are told apart; None: 1000 of a classifier, 80 of a detector.
    top_k: coarse tokens that PST's fine branch opens; 0 is coarse attention alone. It changes no
      parameter and nothing in a network without PST; `model.set_top_k` changes it later.
    width: multiplies every number of channels, rounded to multiples of 8, inside PST of 32.
    **options: of a classifier: `stem`, "imagenet", or "small" for images of about 32 pixels (four
      times the resolution); `dropout`, the rate before the last layer.

  Raises:
    UserError: unknown name, option or stem.
  """
  check_name(name, _ALL)
  known = ("width",) if name in DETECTORS else ("width", "stem", "dropout")
  if unknown := options.keys() - known:
    raise UserError(
      f"option {min(unknown)!r} of model {name} is unknown: the options are {', '.join(known)}"
    )
  if options.get("stem", "imagenet") not in STEMS:
    raise UserError(f"stem {options['stem']!r} is unknown; choose one of {', '.join(STEMS)}")
  if num_classes is None:
    num_classes = NUM_CLASSES["detection" if name in DETECTORS else "classification"]
  return _ALL[name](Options(num_classes, width, **options)).set_top_k(top_k)
