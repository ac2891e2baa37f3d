"""Which network a state dict belongs to: its names and shapes against those of every network."""

import re
from collections.abc import Iterator, Mapping

from pst_jax.convert.pickle_globals import printable
from pst_jax.convert.state_dict import COUNTER, last_bias, network_entries
from pst_jax.models import check_model_name, create_model, list_models

Shapes = Mapping[str, tuple[int, ...]]

_DETECTION_HEAD = re.compile(r"model\.\d+\.dfl\.")


def recognize(shapes: Shapes, model: str | None = None) -> tuple[str, dict]:
  """The network that has exactly these entries.

  The number of classes is read off the last layer. Where the names are those of a network and the
  shapes are not, its other forms are tried: the width that the first layer has, both stems.

  Args:
    shapes: {PyTorch entry name: shape}; BatchNorm's counters may be there or not.
    model: look at this network alone.

  Returns:
    A name of `list_models()` and the options {num_classes, stem, width} for `create_model`.

  Raises:
    ValueError: no network fits; it says what was tried and what is nearest.
  """
  shapes = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(COUNTER)}
  if model is not None:
    check_model_name(model)
  bias = last_bias(shapes)
  if bias is None or len(shapes[bias]) != 1 or not shapes[bias][0]:
    raise ValueError(_without_classes(shapes))
  num_classes = shapes[bias][0]
  tried, same_names = {}, []
  for name in [model] if model else _candidates(shapes):
    wanted = _entry_shapes(name, num_classes=num_classes)
    if wanted == shapes:
      return name, {"num_classes": num_classes, "stem": "imagenet", "width": 1.0}
    tried[name] = wanted
    if wanted.keys() == shapes.keys():
      same_names.append(name)
  for name in same_names:
    for options in _forms(tried[name], shapes):
      if _entry_shapes(name, num_classes=num_classes, **options) == shapes:
        return name, {"num_classes": num_classes, **options}
  raise ValueError(_nothing_fits(shapes, tried, same_names))


def _entry_shapes(name: str, **options) -> dict[str, tuple[int, ...]]:
  return {entry.name: entry.shape for entry in network_entries(create_model(name, **options))}


def _candidates(shapes: Shapes) -> list[str]:
  """The networks of the layouts in question, the likely ones first: a look costs 0.2 seconds."""
  numbered = all(name.startswith("model.") for name in shapes)
  has_pst = any(".cvup." in name for name in shapes)
  names = [n for n in list_models() if (create_model(n).family == "torchvision") != numbered]
  return sorted(names, key=lambda name: ("pst" in name) != has_pst)


def _forms(wanted: Shapes, shapes: Shapes) -> Iterator[dict]:
  """Options under which the first layer might have the shape that it has."""
  first = next(iter(wanted))
  if len(shapes[first]) != 4:
    return
  width = shapes[first][0] / wanted[first][0]
  for stem in ("imagenet", "small"):
    if width > 0 and (stem, width) != ("imagenet", 1.0):
      yield {"stem": stem, "width": width}


def _without_classes(shapes: Shapes) -> str:
  if any(_DETECTION_HEAD.match(name) for name in shapes):
    return (
      "this is a detection network (it has a Detect head), and pst_jax has no detection networks "
      f"yet: give a classification network ({', '.join(list_models('*cls-pst'))} or a ResNet)"
    )
  return (
    f"no network has these {len(shapes)} entries ({_first(list(shapes), 3)}), because none of them "
    "is the bias of a last layer (linear.bias or fc.bias): give a whole classification network"
  )


def _nothing_fits(shapes: Shapes, tried: Mapping[str, Shapes], same_names: list[str]) -> str:
  def fitting(name):
    return len(tried[name].items() & shapes.items())

  near = max(tried, key=lambda name: (name in same_names, fitting(name)))
  if near in same_names:
    wrong = next(name for name in shapes if shapes[name] != tried[near][name])
    return (
      f"its entry names are those of {near}, but {len(shapes) - fitting(near)} of {len(shapes)} "
      f"shapes are not ({printable(wrong)} is {shapes[wrong]} instead of {tried[near][wrong]}; the "
      "width of its first layer and both stems were tried): give a file that this project wrote, "
      "which says how wide its network is"
    )
  missing = [name for name in tried[near] if name not in shapes]
  left_over = [name for name in shapes if name not in tried[near]]
  most = 20 if len(tried) == 1 else 3
  others = ", ".join(
    f"{len(names)} {kind} ({_first(names, most)})"
    for kind, names in (("missing", missing), ("left over", left_over))
    if names
  )
  if len(tried) == 1:
    return f"its entries are not those of {near}: {fitting(near)} fit, {others}"
  return (
    f"no network has exactly these {len(shapes)} entries; nearest of the {len(tried)} tried is "
    f"{near}: {fitting(near)} fit, {others}"
  )


def _first(names: list[str], most: int) -> str:
  return ", ".join([*map(printable, names[:most]), *["..."] * (len(names) > most)])
