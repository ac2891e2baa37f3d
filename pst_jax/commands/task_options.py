"""Options that networks for one task have and the others do not."""

import argparse

from pst_jax.errors import UserError
from pst_jax.ranges import UP_TO_1

OF_TASK = {"classification": ("top",), "detection": ("score", "iou", "draw")}
"""Their names; one that was not given is None."""
SELECTION_HELP = (
  "the rule that picks the tokens: a name of pst_jax.ops.SELECTIONS, or module:function (default: "
  "the one that it was trained with)"
)
_FIELDS = {"score": "score_threshold", "iou": "iou_threshold"}


def add_thresholds(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
  """Declares which boxes of a detector are told; returns the group for further options."""
  group = parser.add_argument_group("detectors")
  group.add_argument(
    "--score", type=float, metavar="S", help="boxes above this score are told (default: 0.25)"
  )
  group.add_argument(
    "--iou",
    type=float,
    metavar="I",
    help="of two boxes of a class that overlap by more the worse is left out (default: 0.7)",
  )
  return group


def check_thresholds(options: argparse.Namespace) -> None:
  """Raises UserError for a threshold that cannot be; before anything is read."""
  for name in _FIELDS:
    value = getattr(options, name)
    if value is not None and not UP_TO_1.allows(value):
      raise UserError(f"--{name} is {value}, but it must be {UP_TO_1.text}")


def thresholds(options: argparse.Namespace) -> dict[str, float]:
  """Those that were given, as attributes of `Detector`."""
  given = {field: getattr(options, name) for name, field in _FIELDS.items()}
  return {field: value for field, value in given.items() if value is not None}


def check_task(options: argparse.Namespace, model: str) -> None:
  """Raises UserError for an option that a network of this task does not have."""
  from pst_jax.models import task_of  # late, so that --help answers at once

  task = task_of(model)
  for other, names in OF_TASK.items():
    given = next((name for name in names if getattr(options, name, None) is not None), None)
    if given and other != task:
      raise UserError(
        f"--{given} is for {other}, but {model} is a network for {task}: leave it out"
      )
