"""The C allocator's settings for benchmarks on the CPU.

Freed memory goes back to the system after every layer by default, and the page faults of taking it
again cost PyTorch's eager mode up to half of its time: both sides of a comparison keep it instead.
"""

import os
import sys

SETTINGS = {
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**40),
  "MALLOC_TOP_PAD_": str(2**26),
}


def tune_allocator() -> None:
  """Starts this program again with the settings, which glibc reads at its start, if need be."""
  if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **SETTINGS})
