"""What kind of work an operation is, so that a plan can say what a step is made of.

The kind is read from where in the program an operation comes from. A fusion of several counts as
what its result is.
"""

import dataclasses
import re
from collections.abc import Callable

from train.planning.hlo_cost import Operation, Program
from train.planning.roofline import operation_seconds
from train.planning.topologies import Slice

_INSIDE_ATTENTION = re.compile(r"/attn/(?!.*/(conv|bn)/)")

# The first that holds. A source such as "jit(train_step)/transpose(jvp(Net))/backbone/stem/conv/
# conv_general_dilated" names the transformations of JAX, the modules and the primitive.
_KINDS: tuple[tuple[str, Callable[[Operation], object]], ...] = (
  ("early copies", lambda each: each.overlaps),
  ("collectives", lambda each: each.collectives),
  ("custom kernels", lambda each: each.is_kernel),
  ("attention", lambda each: _INSIDE_ATTENTION.search(each.source)),
  ("stem", lambda each: each.matrix_flops and "/stem" in each.source),
  ("{window} convolutions", lambda each: each.matrix_flops and each.window),
  ("matrix products", lambda each: each.matrix_flops),
  ("normalisation", lambda each: "/bn/" in each.source),
  ("optimizer and copies", lambda each: "jvp(" not in each.source),
  ("other", lambda each: True),
)


@dataclasses.dataclass
class Kind:
  """All operations of one kind in one direction."""

  kind: str
  direction: str  # forward, backward, or "" outside the network
  operations: int = 0  # times that one of them runs
  seconds: float = 0.0  # at the peaks, each operation at its own limit
  hbm_bytes: int = 0
  matrix_flops: int = 0


def kinds(program: Program, topology: Slice) -> list[Kind]:
  """What a step is made of, the longest first."""
  found: dict[tuple[str, str], Kind] = {}
  for each in program.operations:
    key = _kind(each), _direction(each)
    kind = found.setdefault(key, Kind(*key))
    kind.operations += each.count
    kind.seconds += operation_seconds(each, topology)
    kind.hbm_bytes += each.hbm_bytes * each.count
    kind.matrix_flops += each.matrix_flops * each.count
  return sorted(found.values(), key=lambda kind: -kind.seconds)


def _kind(operation: Operation) -> str:
  name = next(name for name, holds in _KINDS if holds(operation))
  return name.format(window=operation.window)


def _direction(operation: Operation) -> str:
  if "jvp(" not in operation.source:
    return ""
  return "backward" if "transpose(" in operation.source else "forward"
