"""The options of the task."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pst_jax.ranges import FRACTION
from train import schema


@dataclass(frozen=True)
class Config(schema.Config):
  """A run that learns the brightness of images."""

  task: ClassVar[str] = "support.brightness_task.task:TASK"

  dark_weight: Annotated[float, FRACTION] = 0.5
  """What a black image counts in the loss; a white one counts 1."""
  data: schema.DataConfig = field(default_factory=schema.DataConfig)
