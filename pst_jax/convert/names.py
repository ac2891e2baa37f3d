"""PyTorch's name, order and axes for every Flax variable.

The tables read Flax -> PyTorch; the way back follows, since the entries of a network are made from
its Flax variables.
"""

import re
from typing import NamedTuple

import numpy as np

# Every rule is tried in order on the whole Flax path; all that match are applied.
_COMMON = (
  (r"gate_kernel$", "gate_conv1d/weight"),
  (r"gate_bias$", "gate_conv1d/bias"),
  (r"\bblock(\d+)/(attn|mlp)", r"attnlayer_\1/\2"),
  (r"\bmlp(\d)", r"mlp/\1"),
  (r"kernel$", "weight"),
  (r"bn/scale$", "bn/weight"),
  (r"bn/mean$", "bn/running_mean"),
  (r"bn/var$", "bn/running_var"),
)
LAYOUTS = {
  "module": _COMMON,
  "paper": (
    *_COMMON,
    (r"^backbone/stem/", "model/0/layer/0/"),
    (r"^backbone/stage(\d)/block(\d+)/", r"model/\1/layer/\2/"),
    (r"/shortcut/", "/shortcut/0/"),
    (r"^neck/pst/", "model/5/"),
    (r"^neck/down/", "model/7/"),
    (r"^neck/mix/", "model/9/"),
    (r"^head/", "model/10/"),
  ),
  # torchvision's entries for the backbone; the neck and its head follow under names of ours.
  "torchvision": (
    *_COMMON,
    (r"^backbone/stem/(conv|bn)/", r"\g<1>1/"),
    (r"^(backbone/.*)/cv(\d)/(conv|bn)/", r"\1/\3\2/"),
    (r"/shortcut/conv/", "/downsample/0/"),
    (r"/shortcut/bn/", "/downsample/1/"),
    (r"^backbone/stage(\d)/block(\d+)/", r"layer\1/\2/"),
    (r"^neck/", ""),
  ),
  "yolo11": (
    *_COMMON,
    (r"^stem_conv/", "model/0/"),
    (r"^stage1/down/", "model/1/"),
    (r"^stage1/units/", "model/2/"),
    (r"^stage2/down/", "model/3/"),
    (r"^stage2/units/", "model/4/"),
    (r"^stage3/down/", "model/5/"),
    (r"^stage3/units/", "model/6/"),
    (r"^stage4/", "model/7/"),
    (r"^pst/", "model/8/"),
    (r"^down/", "model/10/"),
    (r"^mix/", "model/12/"),
    (r"^self_attention/", "model/13/"),
    (r"^head/", "model/14/"),
    (r"/(m|ffn)(\d)(?=/)", r"/\1/\2"),
  ),
}
# Without a neck the head is torchvision's single layer.
_PLAIN_HEAD = (r"^head/linear/", "fc/")

# PyTorch lists entries in order of declaration. Siblings follow this list; numbers count up.
_ORDER = (
  *("q", "kv", "qkv", "proj", "pe", "gate_conv1d"),
  *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"),
  *("layer1", "layer2", "layer3", "layer4"),
  *("cv1", "cvup", "cv2", "cv3", "m", "shortcut"),
  *(f"attnlayer_{i}" for i in range(16)),
  *("attn", "mlp", "ffn", "conv", "bn", "linear"),
  *("pst", "down", "mix", "head", "fc"),
  *("model", "layer"),
  *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
)
_RANK = {name: rank for rank, name in enumerate(_ORDER)}


class Axes(NamedTuple):
  """How the axes of one kind of array change between the two sides."""

  to_torch: callable
  from_torch: callable


_AXES = {
  "same": Axes(lambda a: a, lambda a: a),
  # HWIO <-> OIHW
  "conv": Axes(lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)),
  "linear": Axes(lambda a: a.transpose(), lambda a: a.transpose()),
  # A linear map <-> a Conv1d of kernel size 1
  "gate": Axes(lambda a: a.transpose()[..., None], lambda a: a[..., 0].transpose()),
}


class Entry(NamedTuple):
  """One entry of a state dict and the variable that it is in Flax."""

  name: str
  shape: tuple[int, ...]
  collection: str
  path: tuple[str, ...]
  axes: Axes


def entries(layout: str, shapes: dict) -> list[Entry]:
  """The state dict's entries, in PyTorch's order, without num_batches_tracked.

  Args:
    layout: a key of `LAYOUTS`.
    shapes: {(collection, *path): shape} of every Flax variable of the network.
  """
  rules = LAYOUTS[layout]
  if layout == "torchvision" and not any(path[1] == "neck" for path in shapes):
    rules = (*rules, _PLAIN_HEAD)
  found = []
  for (collection, *path), shape in shapes.items():
    name = "/".join(path)
    for pattern, replacement in rules:
      name = re.sub(pattern, replacement, name)
    axes = _AXES[_axes_kind(path, len(shape))]
    torch_shape = axes.to_torch(np.broadcast_to(0, shape)).shape
    found.append(Entry(name.replace("/", "."), torch_shape, collection, tuple(path), axes))
  return sorted(found, key=lambda entry: [_rank(part) for part in entry.name.split(".")])


def _axes_kind(path, ndim):
  if path[-1] == "gate_kernel":
    return "gate"
  return {4: "conv", 2: "linear"}.get(ndim, "same")


def _rank(part):
  return int(part) if part.isdigit() else _RANK[part]
