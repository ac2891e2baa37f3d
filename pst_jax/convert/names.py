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
_NUMBERED_UNITS = ((r"/m(\d)_(\d)/", r"/m/\1/\2/"), (r"/(m|ffn)(\d)(?=/)", r"/\1/\2"))
_DETECT = (
  (r"/box(\d)/conv(\d)/", r"/cv2/\1/\2/"),
  (r"/class(\d)/depthwise(\d)/", r"/cv3/\1/\2/0/"),
  (r"/class(\d)/pointwise(\d)/", r"/cv3/\1/\2/1/"),
  (r"/box(\d)/out/", r"/cv2/\1/2/"),
  (r"/class(\d)/out/", r"/cv3/\1/2/"),
)


def _detector(backbone, neck):
  """Rules of a detector: the layers of its backbone, and those of neck and head by number."""
  parts = ("fuse4", "fuse3", "down3", "mix4", "down4", "mix5")
  numbered = {**backbone, **{f"neck/{part}": n for part, n in zip(parts, neck[:-1], strict=True)}}
  rules = tuple((f"^{part}/", f"model/{number}/") for part, number in numbered.items())
  return (*_COMMON, *rules, (r"^head/", f"model/{neck[-1]}/"), *_DETECT, *_NUMBERED_UNITS)


_YOLO11_STAGES = {"stem_conv": 0} | {
  f"stage{i}/{part}": 2 * i - 1 + j for i in range(1, 5) for j, part in enumerate(("down", "units"))
}
_PAPER_BACKBONE = (
  (r"^backbone/stem/", "model/0/layer/0/"),
  (r"^backbone/stage(\d)/block(\d+)/", r"model/\1/layer/\2/"),
  (r"/shortcut/", "/shortcut/0/"),
)
LAYOUTS = {
  "module": _COMMON,
  "paper_detector": (
    *_detector({"reduce": 5, "attend": 6}, (9, 12, 13, 15, 16, 18, 19)),
    *_PAPER_BACKBONE,
  ),
  "yolo11_pst_detector": _detector(_YOLO11_STAGES, (11, 14, 15, 17, 18, 20, 21)),
  "yolo11_detector": _detector(
    _YOLO11_STAGES | {"pool": 9, "self_attention": 10}, (13, 16, 17, 19, 20, 22, 23)
  ),
  "paper": (
    *_COMMON,
    *_PAPER_BACKBONE,
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
    *((f"^{part}/", f"model/{n}/") for part, n in _YOLO11_STAGES.items() if "stage4" not in part),
    (r"^stage4/", "model/7/"),
    (r"^pst/", "model/8/"),
    (r"^down/", "model/10/"),
    (r"^mix/", "model/12/"),
    (r"^self_attention/", "model/13/"),
    (r"^head/", "model/14/"),
    *_NUMBERED_UNITS,
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
  *("pst", "down", "mix", "head", "fc", "dfl"),
  *("model", "layer"),
  *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
)
_RANK = {name: rank for rank, name in enumerate(_ORDER)}


# Number of axes: where PyTorch takes each of its axes from; HWIO -> OIHW of convolutions.
_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


class Entry(NamedTuple):
  """One entry of a state dict and the variable that it is in Flax."""

  name: str
  shape: tuple[int, ...]
  flax_shape: tuple[int, ...]
  collection: str
  path: tuple[str, ...]

  def to_torch(self, array: np.ndarray) -> np.ndarray:
    return array.transpose(_AXES[len(self.flax_shape)]).reshape(self.shape)

  def from_torch(self, array: np.ndarray) -> np.ndarray:
    axes = _AXES[len(self.flax_shape)]
    return array.reshape([self.flax_shape[axis] for axis in axes]).transpose(np.argsort(axes))


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
    torch_shape = tuple(shape[axis] for axis in _AXES[len(shape)])
    if path[-1] == "gate_kernel":  # a Conv1d of kernel size 1
      torch_shape += (1,)
    found.append(Entry(name.replace("/", "."), torch_shape, shape, collection, tuple(path)))
  return sorted(found, key=lambda entry: [_rank(part) for part in entry.name.split(".")])


def _rank(part):
  return int(part) if part.isdigit() else _RANK[part]
