"""Classification as the trainer sees it; `train.tasks.base.Task` says what each part is for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pst_jax.convert.metadata import Metadata
from pst_jax.errors import UserError
from pst_jax.inference.classifier import Classifier
from pst_jax.inference.drawing import Picture
from train.schema import ModelConfig
from train.tasks.base import Column, Entry, Loss, Task
from train.tasks.classification import answers, data, reports
from train.tasks.classification.answers import Answers
from train.tasks.classification.augment import prepare
from train.tasks.classification.config import Config, DataConfig
from train.tasks.classification.loss import LOSSES, Targets, correct, masked_sums


class Classification(Task):
  config = Config
  columns = (
    Column("top1", "top-1", " %", scale=100, digits=2, is_plotted=True),
    Column("top5", "top-5", " %", scale=100, digits=2, is_plotted=True),
    Column("loss", "loss"),
    Column("count", "images", digits=0),
  )
  replaceable = frozenset({"head/linear"})
  files = reports.FILES

  def open(self, config: Config, splits=("train", "eval")):
    return data.open_dataset(config.data, splits)

  def config_of(self, metadata: Metadata) -> Config:
    facts, options = Classifier.preprocessing_of(metadata), metadata.options
    network = {name: options[name] for name in ("stem", "width") if name in options}
    return Config(
      model=ModelConfig(metadata.model, top_k=metadata.top_k, **network),
      data=DataConfig(
        image_size=facts["image_size"],
        eval_crop=facts["eval_crop"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        synthetic_classes=options["num_classes"],
      ),
    )

  def example(self, config: Config) -> dict[str, Entry]:
    return data.example(config.data)

  def together(self, config: Config) -> tuple[int, str]:
    if config.data.mixup or config.data.cutmix:
      return 2, "data.mixup and data.cutmix mix pairs"
    return 1, ""

  def inputs(self, batch: dict, key: jax.Array, config: Config, dtype) -> tuple[jax.Array, Targets]:
    return prepare(batch, key, config.data, dtype)

  def pictures(self, images, targets: Targets, class_names) -> list[Picture]:
    def name(label) -> str:
      return class_names[label] if class_names else f"class {label}"

    captions = [
      name(label) if share == 1 else f"{name(label)} {share:.0%}, {name(other)}"
      for label, other, share in zip(*map(np.asarray, targets), strict=True)
    ]
    return [Picture(*each) for each in zip(images, captions, strict=True)]

  def loss(self, outputs: jax.Array, targets: Targets, config: Config) -> Loss:
    losses = LOSSES[config.loss](outputs, targets, config.label_smoothing)
    right = jnp.sum(correct(outputs, targets)).astype(losses.dtype)
    return Loss(jnp.sum(losses), jnp.asarray(len(losses), losses.dtype), {"top1": right})

  def measure(self, outputs: jax.Array, batch: dict, config: Config) -> dict[str, Any]:
    shares = jax.nn.softmax(outputs.astype(jnp.float32))
    is_nan = jnp.isnan(shares).any(axis=1)
    told = jnp.where(is_nan, -1, jnp.argmax(shares, axis=1))
    sure = jnp.where(is_nan, 0, jnp.max(shares, axis=1))
    return {
      "sums": masked_sums(outputs, batch["label"], batch["mask"]),
      "answers": Answers(batch["position"], batch["label"], told, sure),
      "mask": batch["mask"],
    }

  def update(self, total: dict[str, Any] | None, measured: dict[str, Any]) -> dict[str, Any]:
    counted = Answers(*(each[measured["mask"]] for each in measured["answers"]))
    return {
      "sums": super().update(total and total["sums"], measured["sums"]),
      "answers": [*(total["answers"] if total else ()), counted],
    }

  def compute(self, total: dict[str, Any], config: Config) -> dict[str, float]:
    sums = total["sums"]
    if not sums["count"]:
      raise UserError(
        f"no image of the split {config.data.eval_split} is whole, so that nothing can be "
        "evaluated: restore the data set's files or prepare it again"
      )
    means = {name: sums[name] / sums["count"] for name in ("top1", "top5", "loss")}
    return means | {"count": sums["count"]}

  def more_details(self, total: dict[str, Any], config: Config, dataset) -> str:
    return answers.text(answers.joined(total["answers"]), reports.names_of(dataset))

  def best(self, metrics: dict[str, float]) -> float:
    return metrics["top1"]


TASK = Classification()
