"""What a config's `loggers` may be; the observers themselves are in `registry`."""

import re

from pst_jax.ranges import Range

TENSORBOARD = "tensorboard"  # a file in the run folder, which the run writes itself
NAMES = (TENSORBOARD, "wandb", "mlflow", "trackio")

LOGGERS = Range(
  f"some of {', '.join(NAMES)}, or module:class, each once",
  lambda v: len(set(v)) == len(v) and all(n in NAMES or re.fullmatch(r"[\w.]+:\w+", n) for n in v),
)
