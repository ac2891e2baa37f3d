"""One process of `fuzz.run`: a target, until its time is over or an input breaks it."""

import resource
import sys

import atheris

# What decides the reading, also of the standard library; JAX and TFDS would only slow it down.
INSTRUMENTED = (
  *("pst_jax.convert", "pst_jax.checkpoints", "pst_jax.image_headers", "pst_jax.preprocessing"),
  *("train.data.feature_files", "train.data.prepare", "pickletools", "zipfile", "json"),
)

with atheris.instrument_imports(include=list(INSTRUMENTED)):
  from fuzz.targets import BYTES, TARGETS, check

FIRST_INPUTS = 1000
"""Until then Python's own memory grows."""


def main(arguments: list[str]) -> None:
  target, seen = TARGETS[arguments[1]], {"inputs": 0, "peak": 0}

  def run(data: bytes) -> None:
    check(target, data, trace=False)
    seen["inputs"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if seen["inputs"] > FIRST_INPUTS:
      assert peak - seen["peak"] < 4 * BYTES, f"{peak - seen['peak']} bytes for {len(data)}"
    seen["peak"] = peak

  atheris.Setup([arguments[0], *arguments[2:]], run)
  atheris.Fuzz()


if __name__ == "__main__":
  main(sys.argv)
