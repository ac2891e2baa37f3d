"""How a user gets a package that is not installed."""

import contextlib
import importlib.metadata
import re
import shlex


def how_to_install(*packages: str) -> str:
  """The command that brings packages in the versions that this library takes.

  >>> how_to_install("torch")
  "pip install 'torch>=2.6'"

  It names the packages themselves, as this library stands on no index: the same command helps
  beside a wheel and in a clone.
  """
  versions = {}
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    for line in importlib.metadata.requires("pst_jax") or ():
      name, version = re.match(r"([\w.-]+)([^;]*)", line).groups()
      if version:
        versions.setdefault(name, version.strip())  # the first extra that has it is its own
  return shlex.join(["pip", "install", *(name + versions.get(name, "") for name in packages)])
