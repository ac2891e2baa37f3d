"""What becomes of a damaged image: the end of the run, or a replacement and a line in the log.

Worker processes import this module: it must not import jax.
"""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from train.config import ConfigError, DataConfig
from train.data import images
from train.data.sources import BadImage

# More damaged images than this next to each other are no accident, such as a file that is gone.
LONGEST_ROW = 16

_log = logging.getLogger(__name__)


def load_image(
  records: Sequence[dict], index: int
) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
  """The decoded image and the label of a record.

  Raises:
    BadImage: the record or its image is damaged.
  """
  record = records[index]
  try:
    return images.decode(record["image"]), record["label"]
  except ValueError as error:
    raise BadImage(f"the image of {record['name']} is damaged ({error})") from error


def load_next_good(
  records: Sequence[dict], index: int
) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
  """Image and label of the first whole record after a damaged one; after the last comes the first.

  Raises:
    ConfigError: `LONGEST_ROW` records in a row are damaged.
  """
  for distance in range(1, LONGEST_ROW):
    try:
      return load_image(records, (index + distance) % len(records))
    except BadImage as error:
      last = error
  raise ConfigError(
    f"{LONGEST_ROW} images in a row are damaged, too many to skip; the last: {last}: restore the"
    " data set's files or prepare it again"
  ) from last


def require_skip(error: BadImage, config: DataConfig) -> None:
  """Raises ConfigError, with what to do, unless damaged images are to be skipped."""
  if config.on_bad_image == "raise":
    raise ConfigError(
      f"{error}: restore the data set's files or prepare it again, or go on without that image with"
      " --data.on-bad-image skip"
    ) from error


class DamageLog:
  """Names each damaged image once in the log and counts how often one was met.

  Args:
    records: of the split.
    consequence: what is done about it, in words.
  """

  def __init__(self, records: Sequence[dict], consequence: str):
    self._records, self._consequence = records, consequence
    self._known, self._times = set(), 0

  def note(self, bad: Int[np.ndarray, " batch"]) -> None:
    """Takes the indices of damaged records that a batch met; -1 where there was none."""
    for index in bad[bad >= 0].tolist():
      self._times += 1
      if index not in self._known:
        self._known.add(index)
        _log.warning("%s; %s (%d so far)", self._reason(index), self._consequence, len(self._known))

  def close(self) -> None:
    if self._times:
      _log.warning("%d damaged images were met %d times", len(self._known), self._times)

  def _reason(self, index: int) -> str:
    # Read again, because the worker that met it may be another process.
    try:
      load_image(self._records, index)
    except BadImage as error:
      return str(error)
    return f"record {index} could not be read for a moment"
