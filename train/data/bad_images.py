"""What becomes of a damaged image: the end of the run, or a replacement and a line in the log.

Worker processes import this module: it must not import jax.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from pst_jax.errors import ImageError, UserError
from pst_jax.preprocessing import decode
from train.data.sources import BadImage
from train.schema import DataConfig

# More damaged images than this next to each other are no accident, such as a file that is gone.
LONGEST_ROW = 16

T = TypeVar("T")

_log = logging.getLogger(__name__)


def load_image(records: Sequence[dict], index: int, decode: Callable = decode) -> dict:
  """A record with its image decoded; raises BadImage where one of the two is damaged."""
  record = records[index]
  return record | {"image": read_image(record, decode)}


def read_image(record: dict, read: Callable[[bytes], T]) -> T:
  """What `read` makes of a record's image; raises BadImage where that is damaged."""
  try:
    return read(record["image"])
  except ImageError as error:
    raise BadImage(f"the image of {record['name']} is damaged ({error})") from error


class GoodRecords:
  """Records with their images decoded; the next good one stands in for one that is damaged.

  What stands in depends on the index alone, so that the stream of examples stays the same for any
  number of hosts, threads and workers.

  Attributes:
    encoded: the records as they are, for a task that decodes them itself.
    bad: index of the first damaged record that was met; -1: none.
  """

  def __init__(self, records: Sequence[dict], config: DataConfig):
    self.encoded, self._config = records, config
    self.bad = -1

  def __len__(self) -> int:
    return len(self.encoded)

  def __getitem__(self, index: int) -> dict:
    return self.first_good(lambda at: load_image(self.encoded, at), index)

  def first_good(self, load: Callable[[int], T], index: int) -> T:
    """What `load` makes of a record, or of the first whole one after it, round the end.

    Raises:
      UserError: the record is damaged, and `config.on_bad_image` is "raise"; or `LONGEST_ROW` in a
        row are.
    """
    for distance in range(LONGEST_ROW):
      at = (index + distance) % len(self)
      try:
        return load(at)
      except BadImage as error:
        require_skip(error, self._config)
        self.bad = at if self.bad < 0 else self.bad
        last = error
    raise UserError(
      f"{LONGEST_ROW} images in a row are damaged, too many to skip; the last: {last}: restore the"
      " data set's files or prepare it again"
    ) from last


def require_skip(error: BadImage, config: DataConfig) -> None:
  """Raises UserError, with what to do, unless damaged images are to be skipped."""
  if config.on_bad_image == "raise":
    raise UserError(
      f"{error}: restore the data set's files or prepare it again, or go on without that image with"
      " --data.on-bad-image skip"
    ) from error


class BadImageLog:
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
        reason = f"record {index} could not be read for a moment"
        # Read again, because the worker that met it may be another process.
        try:
          load_image(self._records, index)
        except BadImage as error:
          reason = str(error)
        _log.warning("%s; %s (%d so far)", reason, self._consequence, len(self._known))

  def close(self) -> None:
    if self._times:
      _log.warning("%d damaged images were met %d times", len(self._known), self._times)
