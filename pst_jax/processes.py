"""What the processes of a run tell each other."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_first(value: Any) -> Any:
  """What process 0 gives, in every process; all of them call it, in the same order.

  For what decides which way they all go: a folder may look different to each, e.g. because one of
  them has moved a part of it already, and processes that part ways wait for each other for ever.

  Args:
    value: anything that JSON can hold.
  """
  if jax.process_count() == 1:
    return value
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  data = multihost_utils.broadcast_one_to_all(np.resize(data, length))
  return json.loads(np.asarray(data).tobytes())
