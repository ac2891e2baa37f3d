"""What a task is: everything that the trainer asks of one, and nothing that it knows by itself.

A new task is a folder with a `Config` (a subclass of `train.schema.Config` whose `task` names it)
and an object of a subclass of `Task`. Its name goes into `train.tasks.registry.TASKS`, or the
config says `task = "module:object"`; nothing else is to be edited.
"""

import io
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pst_jax.files import write_output
from pst_jax.inference.drawing import Picture
from train.data.sources import Dataset
from train.schema import Config

if TYPE_CHECKING:  # it imports jax, which worker processes do without
  from pst_jax.convert.metadata import Metadata


class Entry(NamedTuple):
  """Shape and type of one example's entry in a batch."""

  shape: tuple[int, ...]
  dtype: Any


class Loss(NamedTuple):
  """The loss of some examples; `total` summed over all / `weight` summed over all is the loss."""

  total: Any  # sum of the losses, what is differentiated
  weight: Any  # may depend on the data
  # Further sums for the log by name, divided by the same weight. One with the name of a metric of
  # evaluation is that metric in training, and pictures draw the two together.
  logs: Mapping[str, Any] = {}


class Column(NamedTuple):
  """A metric as tables, plots and the summary show it."""

  metric: str  # its key
  name: str  # in words
  unit: str = ""  # what follows the name and the value, such as " %"
  scale: float = 1  # the value is shown times this
  digits: int = 4  # after the point
  is_plotted: bool = False  # whether it is drawn against top_k

  @property
  def title(self) -> str:
    return self.name + self.unit

  def text(self, metrics: Mapping[str, float]) -> str:
    return f"{self.scale * metrics[self.metric]:.{self.digits}f}"


class Task:
  """A task, as one object without state; where a method has no body, the task must give it."""

  config: type[Config]
  columns: tuple[Column, ...]  # how metrics are shown, the most important first
  # Parts of the network, such as "head/last", that are new after `init_from` if the shape differs.
  replaceable: frozenset[str] = frozenset()
  least_weight = 0.0  # the loss is divided by at least this, for batches without anything to find
  # What `train.evaluate` can write of an evaluation beyond its metrics, by the name of the option:
  # (path, what was measured, data set, force=False) -> nothing.
  files: Mapping[str, Callable[..., None]] = MappingProxyType({})

  def open(self, config: Config, splits: tuple[str, ...] = ("train", "eval")) -> Dataset:
    """The data; of `splits` alone.

    Raises:
      UserError: they are not there, or not of this task.
    """

  def config_of(self, metadata: "Metadata") -> Config:
    """A config to evaluate weights with that come without a run, as far as they say."""

  def example(self, config: Config) -> dict[str, Entry]:
    """What an example of a batch holds: "image", uint8, and what else the task needs."""

  def together(self, config: Config) -> tuple[int, str]:
    """How many neighbours in a batch must stay on one device, and a half sentence that says why."""
    return 1, ""

  def inputs(self, batch: dict, key: Any, config: Config, dtype: Any) -> tuple[Any, Any]:
    """Images for the network and targets for the loss, augmented on the device.

    Called in the step, for the whole batch or any part of it: what happens to an example may depend
    on `key`, which is the step's, and on the example's `batch["position"]` in the global batch.
    With `config.data.space_to_depth` images have 12 channels, before and after.
    """

  def eval_images(self, batch: dict, config: Config, dtype: Any) -> Any:
    """Images for the network in evaluation."""
    from pst_jax.inference.predictor import normalize  # late, as it imports jax

    return normalize(batch["image"], config.data.mean, config.data.std, dtype)

  def pictures(
    self, images: np.ndarray, targets: Any, class_names: tuple[str, ...] | None
  ) -> list[Picture]:
    """What `train.show` draws of `inputs`: the images as uint8 RGB, and what stands on them."""

  def loss(self, outputs: Any, targets: Any, config: Config) -> Loss:
    """Of the network's outputs for `inputs`, summed over the examples; pure JAX."""

  def measure(self, outputs: Any, batch: dict, config: Config) -> Any:
    """What a batch of evaluation gives to the metric: a tree of arrays, computed on the devices.

    Sums, or values for each example; all processes see them whole. `batch["mask"]` is False for
    rows that are padding, and they must count nowhere.
    """

  def update(self, total: Any, measured: Any) -> Any:
    """On the host: all measured so far (None at first) and a batch's NumPy arrays.

    Here sums, in Python's numbers, as float32 ends at 16 million.
    """
    numbers = {name: value.item() for name, value in measured.items()}
    return numbers if total is None else {name: total[name] + numbers[name] for name in numbers}

  def compute(self, total: Any, config: Config) -> dict[str, float]:
    """The metrics of all that was measured; "count", the examples, is one of them."""

  def remarks(self, config: Config) -> list[str]:
    """Lines for the start of a run's log: what its figures depend on, beyond the config."""
    return []

  def details(self, total: Any, config: Config, dataset: Dataset) -> str:
    """What `train.evaluate` prints of an evaluation above the table; empty: nothing."""
    return ""

  def more_details(self, total: Any, config: Config, dataset: Dataset) -> str:
    """Likewise, what it prints with `--details` alone."""
    return ""

  def best(self, metrics: Mapping[str, float]) -> float:
    """The higher, the better the checkpoint; of the first evaluation's metrics."""


def zeros(example: Mapping[str, Entry]) -> dict[str, np.ndarray]:
  """An example of zeros, as padding."""
  return {name: np.zeros(shape, dtype) for name, (shape, dtype) in example.items()}


def save_figure(path: str, figure, *, force: bool) -> None:
  """Writes a figure of matplotlib in the form that the path's ending names, and says so."""
  content = io.BytesIO()
  figure.savefig(content, format=pathlib.Path(path).suffix[1:].lower(), dpi=150)
  write_output(path, content.getvalue(), force=force)
  print(f"written: {path}")
