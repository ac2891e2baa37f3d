"""Regression, with a loss weighted by the data and a metric that is no sum."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from support.brightness_task.config import Config

from pst_jax.convert.metadata import Metadata
from pst_jax.inference.drawing import Picture
from pst_jax.preprocessing import resize
from train.data import Dataset, prepared, sources
from train.tasks.base import Column, Entry, Loss, Task, zeros


@dataclass(frozen=True)
class Example:
  """An image and its mean brightness; in training the image may be turned upside down."""

  size: int

  def __call__(self, record, flipped: bool = False) -> dict:
    image = resize(record["image"], self.size, self.size)
    return {
      "image": np.ascontiguousarray(image[::-1] if flipped else image),
      "brightness": np.float32(image.mean() / 255),
    }


@dataclass(frozen=True)
class TrainingExample:
  example: Example

  def __call__(self, records, index, position, rng) -> dict:
    return self.example(records[index], rng.random() < 0.5)


def read(example: dict) -> dict:
  return {"image": example["image"]}


def nothing(rng) -> dict:
  return {}


class Brightness(Task):
  config = Config
  columns = (
    Column("median_error", "median error", is_plotted=True),
    Column("count", "images", digits=0),
  )

  def open(self, config: Config, splits=("train", "eval")) -> Dataset:
    data, example = config.data, Example(config.data.image_size)
    if data.dataset == "synthetic":
      opened = sources.open_synthetic(data, splits, nothing)
    else:
      opened = sources.open_splits(data, prepared.open_builder_of(data), splits, read)
    return Dataset(*opened, 1, None, TrainingExample(example), example, zeros(self.example(config)))

  def config_of(self, metadata: Metadata) -> Config:
    return Config()

  def example(self, config: Config) -> dict[str, Entry]:
    size = config.data.image_size
    return {"image": Entry((size, size, 3), np.uint8), "brightness": Entry((), np.float32)}

  def inputs(self, batch: dict, key: jax.Array, config: Config, dtype):
    return self.eval_images(batch, config, dtype), batch["brightness"].astype(dtype)

  def pictures(self, images, targets, class_names) -> list[Picture]:
    return [Picture(*each) for each in zip(images, map(str, np.asarray(targets)), strict=True)]

  def loss(self, outputs: jax.Array, targets: jax.Array, config: Config) -> Loss:
    weights = config.dark_weight + (1 - config.dark_weight) * targets
    errors = jnp.abs(outputs[:, 0] - targets)
    return Loss(
      jnp.sum(weights * errors**2), jnp.sum(weights), {"error": jnp.sum(weights * errors)}
    )

  def measure(self, outputs: jax.Array, batch: dict, config: Config) -> dict[str, jax.Array]:
    return {"error": jnp.abs(outputs[:, 0] - batch["brightness"]), "mask": batch["mask"]}

  def update(self, total: list | None, measured: dict[str, np.ndarray]) -> list:
    return [*(total or []), *measured["error"][measured["mask"]].tolist()]

  def compute(self, total: list, config: Config) -> dict[str, float]:
    return {"median_error": float(np.median(total)), "count": len(total)}

  def details(self, total: list, config: Config, dataset: Dataset) -> str:
    return f"from {min(total):.4f} to {max(total):.4f}"

  def best(self, metrics: Mapping[str, float]) -> float:
    return -metrics["median_error"]


TASK = Brightness()
