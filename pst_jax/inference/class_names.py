"""Names of classes: the weights' own, or those of the data set that a number of classes means."""

import functools
import importlib.resources

from pst_jax.architectures import NUM_CLASSES
from pst_jax.convert.metadata import Metadata
from pst_jax.errors import UserError
from pst_jax.models import task_of

# task: (whose names they are, the file)
_KNOWN = {
  "classification": ("ImageNet's", "imagenet_classes.txt"),
  "detection": ("COCO's", "coco_classes.txt"),
}


def class_names(metadata: Metadata) -> tuple[str, ...] | None:
  """Names in the order of the logits: the weights' own, or those that their number means, or None.

  ImageNet's of a classifier with 1000 classes, COCO's of a detector with 80.

  Raises:
    UserError: the weights name more or fewer classes than they have.
  """
  names, count = metadata.class_names, metadata.options["num_classes"]
  task = task_of(metadata.model)
  if names is None:
    return _read(_KNOWN[task][1]) if count == NUM_CLASSES[task] else None
  if len(names) != count:
    raise UserError(
      f"the weights have {count} classes, but their metadata names {len(names)}: convert them again"
    )
  return names


def whose_names(metadata: Metadata) -> str:
  """Whose names weights without names of their own are given: "ImageNet's" or "COCO's"."""
  return _KNOWN[task_of(metadata.model)][0]


@functools.cache
def _read(file: str) -> tuple[str, ...]:
  """The names in a file of this package; it says where they come from."""
  text = importlib.resources.files("pst_jax").joinpath(file).read_text("utf-8")
  return tuple(line for line in text.splitlines() if not line.startswith("#"))
