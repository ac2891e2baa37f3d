"""Which network a state dict belongs to: its names and shapes against those of every network."""

from collections.abc import Iterator, Mapping

from pst_jax.convert.formats.pickle_globals import printable
from pst_jax.convert.state_dict import COUNTER, last_bias, network_constants, network_entries
from pst_jax.errors import UserError
from pst_jax.models import check_model_name, create_model, list_models, task_of

Shapes = Mapping[str, tuple[int, ...]]


def recognize(shapes: Shapes, model: str | None = None) -> tuple[str, dict]:
  """The network that has exactly these entries.

  The number of classes is read off the last layer. Where the names are those of a network and the
  shapes are not, its other forms are tried: the width that the first layer has, both stems.

  Args:
    shapes: {PyTorch entry name: shape}; BatchNorm's counters may be there or not.
    model: look at this network alone.

  Returns:
    A name of `list_models()` and the options for `create_model`: {num_classes, width} and, of a
    classifier, stem.

  Raises:
    UserError: no network fits; it says what was tried and what is nearest.
  """
  shapes = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(COUNTER)}
  if model is not None:
    check_model_name(model)
  bias = last_bias(shapes)
  if bias is None or len(shapes[bias]) != 1 or not shapes[bias][0]:
    raise UserError(
      f"no network has these {len(shapes)} entries ({_first(list(shapes), 3)}), because none of "
      "them is the bias of a last layer (linear.bias, fc.bias or cv3.0.2.bias): give a whole "
      "network"
    )
  num_classes = shapes[bias][0]
  tried, same_names = {}, []
  for name in [model] if model else _candidates(shapes):
    wanted = _entry_shapes(name, num_classes=num_classes)
    if wanted == shapes:
      return name, {"num_classes": num_classes, **_plain_form(name)}
    tried[name] = wanted
    if wanted.keys() == shapes.keys():
      same_names.append(name)
  for name in same_names:
    for options in _forms(name, tried[name], shapes):
      if _entry_shapes(name, num_classes=num_classes, **options) == shapes:
        return name, {"num_classes": num_classes, **options}
  raise UserError(_nothing_fits(shapes, tried, same_names))


def _entry_shapes(name: str, **options) -> dict[str, tuple[int, ...]]:
  model = create_model(name, **options)
  constants = {name: value.shape for name, value in network_constants(model).items()}
  return {entry.name: entry.shape for entry in network_entries(model)} | constants


def _plain_form(name: str) -> dict:
  stem = {"stem": "imagenet"} if task_of(name) == "classification" else {}
  return {**stem, "width": 1.0}


def _candidates(shapes: Shapes) -> list[str]:
  """The networks of the layouts in question, the likely ones first: a look costs 0.2 seconds."""
  numbered = all(name.startswith("model.") for name in shapes)
  has_pst = any(".cvup." in name for name in shapes)
  task = "detection" if any(".dfl." in name for name in shapes) else "classification"
  names = [
    name
    for name in list_models()
    if task_of(name) == task and (create_model(name).family != "torchvision") == numbered
  ]
  return sorted(names, key=lambda name: ("pst" in name) != has_pst)


def _forms(name: str, wanted: Shapes, shapes: Shapes) -> Iterator[dict]:
  """Options under which the first layer might have the shape that it has."""
  first = next(iter(wanted))
  if len(shapes[first]) != 4:
    return
  plain = _plain_form(name)
  scaled = plain | {"width": shapes[first][0] / wanted[first][0]}
  forms = [scaled, {**scaled, "stem": "small"}] if "stem" in plain else [scaled]
  yield from (form for form in forms if form["width"] > 0 and form != plain)


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
