"""What a network costs: parameters and FLOPs of every module, counted without running it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.extend.core import Jaxpr, jaxprs_in_params

from pst_jax.errors import UserError
from pst_jax.wording import aligned

UNIT = "GFLOPs per image: 2 x the multiply-adds of convolutions and matrix products"

Path = tuple[str, ...]


class ModuleCost(NamedTuple):
  """What a module costs.

  Attributes:
    path: names from the network down to the module; () is the network.
    parameters: trained numbers in it and in the modules inside; running statistics not counted.
    flops: per image, with the modules inside.
  """

  path: Path
  parameters: int
  flops: int


@dataclass(frozen=True)
class Summary:
  """Costs of a network and its modules; `str()` makes it a table.

  Attributes:
    image_size: height and width of the image that the FLOPs are for.
    modules: the network, then its modules in the order they run, each before those inside it.
  """

  image_size: tuple[int, int]
  modules: tuple[ModuleCost, ...]

  @property
  def parameters(self) -> int:
    return self.modules[0].parameters

  @property
  def flops(self) -> int:
    """FLOPs per image: 2 x multiply-adds (torchvision and timm state the multiply-adds alone)."""
    return self.modules[0].flops

  def __str__(self) -> str:
    rows = [("module", "parameters", "GFLOPs", "share")]
    for path, parameters, flops in self.modules:
      name = "  " * (len(path) - 1) + path[-1] if path else "all"
      share = f"{flops / max(self.flops, 1):.1%}"
      rows.append((name, f"{parameters:,}", f"{flops / 1e9:.3f}", share))
    height, width = self.image_size
    return f"{UNIT}, image {height}x{width}\n{aligned(rows)}"


def summarize(
  model: nn.Module, image_size: int | tuple[int, int] = 224, *, depth: int = 2
) -> Summary:
  """Counts the parameters and FLOPs of a network and its modules; nothing is computed.

  FLOPs are those of inference: 2 x the multiply-adds of convolutions (padding counts as data) and
  matrix products, the attention's too. Elementwise work and reductions are not counted.

  >>> print(summarize(create_model("resnet50_pst", top_k=8), depth=3))

  Args:
    model: a network made by `create_model`; its top_k decides what the fine branch costs.
    image_size: height and width, or one number for both.
    depth: how many levels of modules to list; 0: the network alone.

  Raises:
    UserError: images too small for the network, top_k beyond its coarse tokens, or depth below 0.
  """
  if depth < 0:
    raise UserError(f"depth is {depth}, but it must be a whole number from 0")
  height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
  if getattr(model, "coarse_implementation", None) == "auto":
    # Its forms differ in what they pad, which is no work of the network.
    model = model.clone(coarse_implementation="einsum")

  # One trace gives both: the parameters, and the operations that run on them.
  def run(key, images):
    return model.init_with_output({"params": key, "selection": key}, images)

  image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
  jaxpr, (_, variables) = jax.make_jaxpr(run, return_shape=True)(jax.random.key(0), image)
  sizes = {path: math.prod(leaf.shape) for path, leaf in flatten_dict(variables["params"]).items()}

  known = {path[:end] for path in sizes for end in range(len(path))}
  flops = dict.fromkeys([()], 0)
  for scope, count in _operations(jaxpr.jaxpr, ()):
    path = ()  # the innermost module; a name stack names methods and functions besides
    for name in scope:
      path = (*path, name) if (*path, name) in known else path
    for end in range(len(path) + 1):
      flops[path[:end]] = flops.get(path[:end], 0) + count
  # In the order of appearance, with the modules inside a module right behind it.
  rank = {path: i for i, path in enumerate(flops)}
  paths = sorted(flops, key=lambda path: [rank[path[:end]] for end in range(len(path) + 1)])
  costs = (
    ModuleCost(path, sum(n for p, n in sizes.items() if p[: len(path)] == path), flops[path])
    for path in paths
    if len(path) <= depth
  )
  return Summary((height, width), tuple(costs))


def _operations(jaxpr: Jaxpr, scope: Path) -> Iterator[tuple[Path, int]]:
  """Name stack and FLOPs of every operation; most have 0."""
  for eqn in jaxpr.eqns:
    here = (*scope, *str(eqn.source_info.name_stack).split("/"))
    name = eqn.primitive.name
    # A kernel's body is one step of its grid; what it costs as a whole it says itself.
    bodies = [] if name == "pallas_call" else jaxprs_in_params(eqn.params)
    inner = [list(_operations(each, here)) for each in bodies]
    if name == "cond":
      inner = [max(inner, key=lambda branch: sum(count for _, count in branch))]
    times = eqn.params["length"] if name == "scan" else 1
    yield here, _FLOPS[name](eqn) if name in _FLOPS else 0
    for operations in inner:
      yield from ((path, times * count) for path, count in operations)


def _convolution_flops(eqn):
  kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
  out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
  return 2 * math.prod(out) * math.prod(kernel) // out_features


def _product_flops(eqn):
  (contracted, _), _ = eqn.params["dimension_numbers"]
  out, shape = eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape
  return 2 * math.prod(out) * math.prod(shape[axis] for axis in contracted)


def _kernel_flops(eqn):
  estimate = eqn.params["cost_estimate"]
  return estimate.flops if estimate else 0


_FLOPS = {
  "conv_general_dilated": _convolution_flops,
  "dot_general": _product_flops,
  "pallas_call": _kernel_flops,
}
