"""Files of a run that grow, where the run is in a bucket: objects cannot be appended to.

They grow in a local folder and are put into the bucket as a whole, so that whoever looks there
finds the same files as in a local run.
"""

import logging
import pathlib
import tempfile
from time import monotonic

_SECONDS, _SHARE = 30.0, 50
"""Between two uploads: so many seconds, and so many times as long as the last one took."""

_log = logging.getLogger(__name__)


class Spool:
  """A local folder whose files are those of a folder in a bucket.

  Args:
    bucket_folder: an `epath.Path`.
    kept: the name of a file that goes on where it ended.

  Raises:
    OSError: (by every method) the bucket cannot be read or written.
  """

  def __init__(self, bucket_folder, kept: str):
    self._bucket_folder = bucket_folder
    self._temporary = tempfile.TemporaryDirectory(prefix="pst_jax-")
    self.folder = pathlib.Path(self._temporary.name)
    self._sizes: dict[pathlib.Path, int] = {}
    self._next = monotonic() + _SECONDS
    if (bucket_folder / kept).exists():
      (self.folder / kept).write_bytes((bucket_folder / kept).read_bytes())

  def publish(self) -> None:
    """Puts every file that has changed into the bucket, and returns when it is there."""
    began = monotonic()
    for path in sorted(self.folder.rglob("*")):
      if path.is_file() and (size := path.stat().st_size) != self._sizes.get(path):
        target = self._bucket_folder / path.relative_to(self.folder).as_posix()
        target.write_bytes(path.read_bytes())
        self._sizes[path] = size
    self._next = monotonic() + max(_SECONDS, _SHARE * (monotonic() - began))

  def publish_now_and_then(self) -> None:
    """As `publish`, if the last time is long ago; a failure costs nothing until a checkpoint."""
    if monotonic() < self._next:
      return
    try:
      self.publish()
    except OSError as error:
      self._next = monotonic() + _SECONDS
      _log.warning("%s cannot be brought up to date (%s).", self._bucket_folder, error.strerror)

  def close(self) -> None:
    """Publishes what is left, and deletes the local folder."""
    with self._temporary:
      self.publish()
