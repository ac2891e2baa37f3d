"""Detection as the trainer sees it; `train.tasks.base.Task` says what each part is for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pst_jax import detection
from pst_jax.convert.metadata import Metadata
from pst_jax.detection.decoding import BINS
from pst_jax.detection.losses import GAINS
from pst_jax.inference.drawing import Picture
from train.schema import ModelConfig
from train.tasks.base import Column, Entry, Loss, Task
from train.tasks.detection import data, reports
from train.tasks.detection.config import Config, DataConfig
from train.tasks.detection.data import from_words
from train.tasks.detection.mean_ap import Found, MeanAP, Truth


class Percent(Column):
  """A share in percent; COCO's -1 says that no box could have been found."""

  def text(self, metrics) -> str:
    return super().text(metrics) if metrics[self.metric] >= 0 else "-"


def _percent(metric: str, name: str, *, is_plotted: bool = False) -> Percent:
  return Percent(metric, name, " %", scale=100, digits=2, is_plotted=is_plotted)


class Detection(Task):
  config = Config
  columns = (
    _percent("map", "mAP50-95", is_plotted=True),
    _percent("ap50", "AP50", is_plotted=True),
    _percent("ap75", "AP75"),
    _percent("ap_small", "small"),
    _percent("ap_medium", "medium"),
    _percent("ap_large", "large"),
    _percent("ar100", "AR100"),
    Column("count", "images", digits=0),
  )
  # Where the number of classes differs, both the last layer and the width of the branch may.
  replaceable = frozenset(f"head/class{level}" for level in range(len(detection.STRIDES)))
  least_weight = 1.0
  files = reports.FILES

  def open(self, config: Config, splits=("train", "eval")):
    return data.open_dataset(config.data, config.epochs, splits)

  def config_of(self, metadata: Metadata) -> Config:
    options, facts = metadata.options, metadata.preprocessing or {}
    return Config(
      model=ModelConfig(metadata.model, top_k=metadata.top_k, width=options.get("width", 1.0)),
      data=DataConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}),
    )

  def example(self, config: Config) -> dict[str, Entry]:
    return data.example(config.data)

  def inputs(
    self, batch: dict, key: jax.Array, config: Config, dtype
  ) -> tuple[jax.Array, detection.Targets]:
    del key  # what is random was drawn with the mosaic, on the host
    targets = detection.Targets(batch["boxes"], batch["classes"], batch["valid"])
    return self.eval_images(batch, config, dtype), targets

  def pictures(self, images, targets: detection.Targets, class_names) -> list[Picture]:
    found = []
    for image, boxes, classes, valid in zip(images, *map(np.asarray, targets), strict=True):
      labels = classes[valid].tolist()
      names = [class_names[label] if class_names else str(label) for label in labels]
      found.append(Picture(image, boxes=boxes[valid], classes=labels, names=names))
    return found

  def loss(self, outputs: Any, targets: detection.Targets, config: Config) -> Loss:
    """Sums over the images; the batch's size is in the total, as the authors' loss has it."""
    terms = detection.loss_terms(outputs, targets)
    gains = {"box": config.box_gain, "classes": config.class_gain, "dfl": config.dfl_gain}
    logs = {name: gain / GAINS[name] * getattr(terms, name) for name, gain in gains.items()}
    return Loss(config.batch_size * sum(logs.values()), terms.weight, logs)

  def measure(self, outputs: Any, batch: dict, config: Config) -> dict[str, Any]:
    """What was found, in pixels of the letterboxed image, and all that the metric asks for."""
    found = detection.non_max_suppression(*detection.decode(outputs), **vars(config.suppression))
    known = {name: value for name, value in batch.items() if name not in ("image", "position")}
    num_classes = jnp.asarray(outputs[0].shape[-1] - 4 * BINS)
    return {"found": found._asdict(), "num_classes": num_classes, **known}

  def update(self, total: MeanAP | None, measured: dict[str, Any]) -> MeanAP:
    total = total or MeanAP(int(measured["num_classes"]))
    truth = Truth(
      from_words(measured["boxes"]),
      measured["classes"],
      measured["valid"],
      measured["crowd"],
      from_words(measured["area"]),
    )
    found = Found(**measured["found"])
    found = found._replace(boxes=_on_the_image(found.boxes, measured))
    ids = from_words(measured["image_id"], np.int64)
    return total.update(ids, truth, found, measured["mask"])

  def compute(self, total: MeanAP, config: Config) -> dict[str, float]:
    return {**total.compute().figures, "count": len(total.joined().images)}

  def remarks(self, config: Config) -> list[str]:
    side = config.data.image_size
    return [f"evaluation: every image letterboxed to {side}x{side}, one fixed size"]

  def details(self, total: MeanAP, config: Config, dataset) -> str:
    """A table of the classes, and what the figures depend on."""
    table = reports.class_table_text(total.compute(), dataset.class_names)
    return "\n".join([table, *self.remarks(config)])

  def best(self, metrics: dict[str, float]) -> float:
    """mAP50-95; the authors mix in a tenth of AP50."""
    return metrics["map"]


def _on_the_image(boxes: np.ndarray, measured: dict[str, np.ndarray]) -> np.ndarray:
  """Boxes [B, n, 4] on letterboxed images as boxes on the images themselves, cut at their edges."""
  pad = np.tile(measured["pad"].astype(np.float64), 2)[:, None]
  scale = np.tile(measured["scale"].astype(np.float64), 2)[:, None]
  moved = (boxes.astype(np.float64) - pad) / scale
  edges = np.tile(measured["size"][:, ::-1], 2)[:, None]
  return np.clip(moved, 0, edges)


TASK = Detection()
