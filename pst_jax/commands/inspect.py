"""python -m pst_jax inspect FILE: what a file of weights holds."""

import argparse
import collections
import pathlib
import textwrap

from pst_jax.errors import UserError
from pst_jax.wording import listed

DESCRIPTION = """\
Shows what a file of weights holds: its form, the network, entries, types, parameters, and the
metadata that travel with it. FILE is a .pt, .pth or .safetensors of anybody (nothing of it is run),
a run folder, a folder that `python -m pst_jax convert` wrote, or hf://owner/name.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  parser.add_argument("file", metavar="FILE", help="what to look at")


def run(options: argparse.Namespace) -> None:
  """Prints what the file holds."""
  # Late, so that --help answers at once.
  from pst_jax.convert.io import describe, read_as_is

  file = read_as_is(options.file)
  lines = {"form": file.form, **_content(file)}
  try:
    lines |= _known(describe(file, pathlib.Path(options.file).name))
  except UserError as error:
    lines["model"] = f"not recognised: {error}"
  for name, text in {**lines, **_said(file)}.items():
    print(textwrap.fill(text, 100, initial_indent=f"{name:15s}", subsequent_indent=" " * 15))


def _content(file) -> dict[str, str]:
  from pst_jax.convert.formats.pickle_globals import printable
  from pst_jax.convert.io import not_finite
  from pst_jax.convert.state_dict import COUNTER

  kinds = collections.Counter()
  for name, array in file.state_dict.items():
    kinds[_KINDS.get(name.rpartition(".")[2], "parameters")] += array.size
  types = collections.Counter(array.dtype.name for array in file.state_dict.values())
  counters = sum(name.endswith(COUNTER) for name in file.state_dict)
  wrong = [printable(name) for name in not_finite(file.state_dict)]
  return {
    "entries": f"{len(file.state_dict)}, {counters} of them counters of BatchNorm",
    "types": ", ".join(f"{count} {name}" for name, count in types.items()),
    "parameters": f"{kinds['parameters']:,}, and {kinds['statistics']:,} running statistics",
    "values": f"NaN or infinity in {len(wrong)}: {_some(wrong)}" if wrong else "all finite",
  }


_KINDS = {"running_mean": "statistics", "running_var": "statistics", "num_batches_tracked": ""}


def _known(metadata) -> dict[str, str]:
  from pst_jax.convert.metadata import described

  images, classes = metadata.preprocessing, metadata.class_names
  return {
    "model": described(metadata),
    "source": _safe(metadata.source),
    "trained with": f"top_k {metadata.top_k}",
    "preprocessing": "not stated" if images is None else _pairs(images),
    "classes": "not stated" if classes is None else _some(classes),
    "versions": _pairs(metadata.versions),
  }


def _said(file) -> dict[str, str]:
  """What others wrote into their file."""
  from pst_jax.convert.metadata import SCHEMA_KEY

  texts = {}
  if file.block and SCHEMA_KEY not in file.block:
    texts["file says"] = _pairs(file.block)
  if file.facts.get("class_names"):
    texts["classes"] = _some(file.facts["class_names"])
  if file.facts.get("prefix"):
    texts["cut off names"] = _safe(file.facts["prefix"])
  for name, value in file.facts.get("checkpoint", {}).items():
    texts[_safe(name)] = _pairs(value) if isinstance(value, dict) else _safe(value)
  return texts


def _pairs(values) -> str:
  return ", ".join(f"{_safe(name)} {_safe(value)}" for name, value in values.items())


def _some(texts) -> str:
  return listed(map(_safe, texts), 10)


def _safe(value) -> str:
  from pst_jax.convert.formats.pickle_globals import printable

  return printable(str(value))
