"""Images with boxes: the data sets, and what becomes of a record.

Worker processes import this module: it must not import jax.
"""

import dataclasses
import functools

import numpy as np

from pst_jax.errors import UserError
from pst_jax.preprocessing import decode_upright
from train.data import prepared, sources
from train.data.bad_images import GoodRecords
from train.data.box_records import ReadBoxes, box_classes, has_boxes
from train.data.sources import Dataset
from train.tasks.base import Entry
from train.tasks.detection.augmentation import training_example
from train.tasks.detection.config import DataConfig
from train.tasks.detection.examples import evaluation_example, evaluation_padding

# Of 64 bits in an evaluation example.
_EXACT = ("image_id", "boxes", "area")


@dataclasses.dataclass(frozen=True)
class BoxDataset(Dataset):
  """A data set with boxes."""

  category_ids: tuple[int, ...] = ()  # the number of each class in COCO's JSON form


def open_dataset(
  config: DataConfig, epochs: float, splits: tuple[str, ...] = ("train", "eval")
) -> Dataset:
  """Opens `config.dataset` for reading; the scenes of digits are prepared on first use.

  Args:
    config: the data.
    epochs: of the run, at whose end mosaics are left out.
    splits: "train", "eval" or both.

  Raises:
    UserError: an option is out of range; the data set is not there, not in array_record form, or
      has no boxes; a split is unknown or empty.
  """
  builder = prepared.open_builder_of(config)
  if not has_boxes(builder.info.features):
    raise UserError(
      f"dataset {config.dataset} has the features {sources.described(builder.info.features)}, but"
      " `image`, `image/id`, `image/filename` and `objects` (area, bbox, is_crowd, label) are"
      " needed: prepare boxes of your own with `python -m train.prepare coco`, `yolo` or `voc`"
    )
  names, category_ids = box_classes(builder.info)
  train, evaluation = sources.open_splits(config, builder, splits, ReadBoxes(len(names)))
  first_closed = round(max(0.0, epochs - config.close_mosaic_epochs) * len(train or ()))
  return BoxDataset(
    train=train,
    eval=evaluation,
    num_classes=len(names),
    class_names=names,
    training_example=functools.partial(train_example, config, first_closed),
    evaluation_example=functools.partial(eval_example, config),
    padding=padding(config),
    decode=decode_upright,
    category_ids=category_ids,
  )


def example(config: DataConfig) -> dict[str, Entry]:
  """What an example of a training batch holds."""
  size, rows = config.image_size, config.max_boxes
  return {
    "image": Entry((size, size, 3), np.uint8),
    "boxes": Entry((rows, 4), np.float32),
    "classes": Entry((rows,), np.int32),
    "valid": Entry((rows,), np.bool_),
  }


def train_example(
  config: DataConfig,
  first_closed: int,
  records: GoodRecords,
  index: int,
  position: int,
  rng: np.random.Generator,
) -> dict:
  """An augmented image with its boxes; no mosaics from the position `first_closed` on."""
  return training_example(records, index, rng, config, close=position >= first_closed)


def eval_example(config: DataConfig, record: dict) -> dict:
  """A letterboxed image with all that is known of its objects."""
  return _exact(evaluation_example(record, config.image_size, config.max_boxes))


def padding(config: DataConfig) -> dict[str, np.ndarray]:
  """An evaluation example without an image."""
  return _exact(evaluation_padding(config.image_size, config.max_boxes))


def _exact(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """With pairs of words for numbers of 64 bits, as devices compute with 32.

  An evaluator compares overlaps with thresholds: boxes rounded to float32 could fall on the other
  side of one, and image ids beyond 2**31 would turn into others.
  """
  return example | {name: to_words(example[name]) for name in _EXACT}


def to_words(values: np.ndarray) -> np.ndarray:
  """The bits of float64 or int64 values [...] as uint32 [..., 2]."""
  return np.ascontiguousarray(values).view(np.uint32).reshape(*np.shape(values), 2)


def from_words(words: np.ndarray, dtype: type = np.float64) -> np.ndarray:
  """The values [...] of `to_words`, whose type `dtype` says."""
  return np.ascontiguousarray(words).view(dtype)[..., 0]
