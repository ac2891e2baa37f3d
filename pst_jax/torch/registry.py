"""Names of the networks and what each is made of."""

import difflib
import fnmatch
from functools import partial

from pst_jax.torch.network import Network
from pst_jax.torch.reference import ReferenceNetwork
from pst_jax.torch.resnet import ResNet, ResNetPST
from pst_jax.torch.yolo11 import Yolo11

STEMS = ("imagenet", "small")

REFERENCE = {
  "r18": ((2, 2, 2, 2), 256),
  "r50": ((3, 4, 6, 3), 256),
  "r101": ((3, 4, 23, 3), 512),
}
"""Name -> (blocks per stage, PST channels)."""

RESNETS = {
  "resnet18": ("basic", (2, 2, 2, 2), 256),
  "resnet26": ("bottleneck", (2, 2, 2, 2), 256),
  "resnet34": ("basic", (3, 4, 6, 3), 256),
  "resnet50": ("bottleneck", (3, 4, 6, 3), 256),
  "resnet101": ("bottleneck", (3, 4, 23, 3), 512),
}
"""Name -> (kind of block, blocks per stage, channels of the PST variant)."""

YOLO11 = {
  "yolo11n": (0.25, 1024, False),
  "yolo11s": (0.5, 1024, False),
  "yolo11m": (1.0, 512, True),
}
"""Name -> (scale of channels, largest channels before it, C3k units everywhere)."""

BUILDERS = (
  {f"{name}-cls-pst": partial(ReferenceNetwork, *layout) for name, layout in REFERENCE.items()}
  | {name: partial(ResNet, kind, blocks) for name, (kind, blocks, _) in RESNETS.items()}
  | {f"{name}_pst": partial(ResNetPST, *layout) for name, layout in RESNETS.items()}
  | {f"{name}-cls-pst": partial(Yolo11, *layout) for name, layout in YOLO11.items()}
)


def list_models(pattern: str = "*") -> list[str]:
  """Names of networks that match a shell pattern, e.g. `list_models("*pst*")`."""
  return [name for name in BUILDERS if fnmatch.fnmatch(name, pattern)]


def create_model(
  name: str,
  num_classes: int = 1000,
  top_k: int = 0,
  *,
  width: float = 1.0,
  stem: str = "imagenet",
  dropout: float = 0.0,
) -> Network:
  """The network called `name` as a `torch.nn.Module`, with freshly initialised parameters.

  >>> model = create_model("r18-cls-pst").eval()
  >>> logits = model.set_top_k(8)(torch.zeros(1, 3, 224, 224))

  Args:
    name: one of `list_models()`.
    num_classes: length of the logits.
    top_k: coarse tokens that PST's fine branch opens; 0 is coarse attention alone. It changes no
      parameter and nothing in a network without PST; `model.set_top_k` changes it later.
    width: multiplies every number of channels, rounded to multiples of 8, inside PST of 32.
    stem: "imagenet", or "small" for images of about 32 pixels: four times the resolution.
    dropout: rate before the last layer.

  Raises:
    ValueError: unknown name or stem.
  """
  if name not in BUILDERS:
    close = difflib.get_close_matches(name, BUILDERS, n=3) or list_models()
    raise ValueError(f"model {name!r} is unknown; did you mean {', '.join(close)}?")
  if stem not in STEMS:
    raise ValueError(f"stem {stem!r} is unknown; choose one of {', '.join(STEMS)}")
  builder = BUILDERS[name]
  return builder(num_classes=num_classes, width=width, stem=stem, dropout=dropout).set_top_k(top_k)
