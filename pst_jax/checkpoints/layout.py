"""What a folder of checkpoints holds, read as plain files: steps and their records.

DIR/300/state     the leaves, as nested dictionaries in Orbax's own format
DIR/300/record    {"step", "run", "best", "extra", "metrics", "leaves": {name: [dtype, shape,
                  checksum]}, "sha256"}, as JSON
DIR/400.unfinished  where folders cannot be renamed: 400 counts when its commit file is there
DIR/damaged/400   a checkpoint that was passed over: corrupt, or of another run; never read again
DIR/../run_id     the run that the checkpoints are of; a folder of weights has none

`extra["weights"]` is the metadata block that every converted file has too. Records of the first
version lack `step`, `run`, `best` and that block: their `metrics["top1"]` stands for `best`.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pst_jax.buckets import filesystem, is_url, require_writable
from pst_jax.errors import UserError
from pst_jax.files import parse_json, place, require_space
from pst_jax.overwrite import NO_RENAME
from pst_jax.presence import is_folder, is_taken, is_there

Which = int | Literal["latest", "best"]

ASIDE, RUN_ID = "damaged", "run_id"
UNFINISHED, COMMITTED = ".unfinished", "commit_success.txt"


class CorruptError(Exception):
  """The checkpoint is not what was saved; the text says in what."""


@dataclass(frozen=True)
class Identity:
  """The run that checkpoints belong to.

  Attributes:
    run: name that was drawn when the run began; None: not known, anything is taken.
    config: {"optim.learning_rate": 0.1} of the options that the run may not change.
  """

  run: str | None = None
  config: Mapping[str, Any] = field(default_factory=dict)

  def require(self, record: Mapping) -> None:
    """Raises CorruptError for the record of a checkpoint of another run, or of another config."""
    # Records of the first version name no run.
    if self.run is not None and record["run"] not in (None, self.run):
      raise CorruptError("it is of another run")
    saved = record["extra"].get("config")
    known = saved if isinstance(saved, dict) else {}
    config = json.loads(json.dumps(dict(self.config)))  # tuples as lists, as records have them
    for name, value in config.items():
      if name in known and known[name] != value:
        raise CorruptError(f"it is of another config: {name} is {known[name]!r} in it")


def check_directory(directory: str | os.PathLike, needed_bytes: int = 0) -> None:
  """Makes the directory and really writes a file into it.

  Raises:
    UserError: that failed, or fewer than `needed_bytes` bytes are free.
  """
  if is_url(directory):
    require_writable(absolute(directory))
    return
  with _writing(directory):
    pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe") as probe:
      probe.write(bytes(1 << 16))
      probe.flush()
      os.fsync(probe.fileno())
  require_space(
    directory,
    needed_bytes,
    "The checkpoints need",
    "free some space, choose another run_dir, or lower checkpoint.keep_latest.",
  )


def can_rename(directory: pathlib.Path) -> bool:
  """Whether folders in this one can be renamed, which is tried.

  Where they cannot, a checkpoint is written under its own name and counts from its commit file on.

  Raises:
    UserError: nothing can be made; or no file can be renamed, as TensorStore does with all of its
      own.
  """
  if is_url(directory):
    return False
  probe = directory / f".probe-{secrets.token_hex(8)}"
  file, folder = probe / "file", probe / "folder"
  with _writing(directory):
    probe.mkdir()
    try:
      file.touch()
      folder.mkdir()
      if not _renames(file):
        raise UserError(
          f"no file can be renamed in {directory}, which the library that writes the arrays "
          "needs: choose a run_dir on a disk, a bucket mounted with gcsfuse, or gs://"
        )
      return _renames(folder)
    finally:
      shutil.rmtree(probe)


def _renames(path: pathlib.Path) -> bool:
  try:
    os.rename(path, path.with_suffix(".renamed"))
  except OSError as error:
    if error.errno not in NO_RENAME:
      raise
    return False
  return True


@contextlib.contextmanager
def _writing(directory: str | os.PathLike) -> Iterator[None]:
  """Turns what the system says of a folder that is tried into one sentence."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    raise UserError(
      f"The folder {directory} cannot be written ({error.strerror}); "
      "choose another run_dir, or make room and set its permissions."
    ) from error


def absolute(directory: str | os.PathLike) -> pathlib.Path:
  """The path of a folder of checkpoints, or of anything in it; see `files.place`."""
  path = place(directory, "the folder of checkpoints", ("gs",))
  return path if is_url(path) else path.absolute()


def saved_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints, ascending; unfinished ones have other names."""
  if not is_folder(directory):
    return []
  return sorted(
    int(x.name)
    for x in directory.iterdir()
    if is_step(x.name) and is_folder(x) and not is_unfinished(x)
  )


def is_unfinished(folder: pathlib.Path) -> bool:
  """Whether a save into this folder, under its own name, has not come to its end."""
  return is_there(marker(folder)) and not is_there(folder / COMMITTED)


def marker(folder: pathlib.Path) -> pathlib.Path:
  """The file that is there before a folder is, and until the folder is finished."""
  return folder.with_name(folder.name + UNFINISHED)


def is_step(name: str) -> bool:
  """Whether a folder's name is the number of a step as it is written here: no 045, no ٤٥."""
  return name.isascii() and name.isdecimal() and name == str(int(name[:18]))


def remove_unfinished(directory: pathlib.Path) -> None:
  """Removes what a killed or failed save left, before the space on the disk is looked at."""
  for path in directory.glob("*.orbax-checkpoint-tmp*"):
    if is_folder(path) and not path.is_symlink():
      _remove(path)
    else:
      path.unlink()
  for path in directory.glob(f"*{UNFINISHED}"):
    folder = path.with_name(path.name.removesuffix(UNFINISHED))
    if is_unfinished(folder) and is_folder(folder):
      _remove(folder)
    path.unlink()


def _remove(folder: pathlib.Path) -> None:
  folder.rmtree() if is_url(folder) else shutil.rmtree(folder)


def set_aside(directory: pathlib.Path, step: int) -> None:
  """Moves a checkpoint to `damaged/`, so that its step can be saved again, or raises UserError."""
  asides = _numbered(directory, ASIDE)
  aside = next(path for path in asides if is_folder(path) or not is_taken(path))
  target = next(path for path in _numbered(aside, str(step)) if not is_taken(path))
  try:
    aside.mkdir(exist_ok=True)  # in a bucket it does nothing
    move_folder(directory / str(step), target)
  except OSError as error:
    raise UserError(
      f"The checkpoint {directory / str(step)} cannot be used, and cannot be moved to {target} "
      f"({error.strerror}): move or delete it, then give the same command again."
    ) from error


def move_folder(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Renames a folder; where that cannot be, copies it whole and then deletes it."""
  if is_url(folder):  # which copies and deletes
    filesystem(folder).mv(os.fspath(folder), os.fspath(target), recursive=True)
    return
  try:
    folder.rename(target)
  except OSError as error:
    if error.errno not in NO_RENAME:
      raise
    shutil.copytree(folder, target)
    shutil.rmtree(folder)


def _numbered(folder: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
  """Paths in a folder: NAME, NAME.1, NAME.2, ..."""
  return (folder / (f"{name}.{i}" if i else name) for i in itertools.count())


def steps_to_try(directory: pathlib.Path, step: Which) -> list[int]:
  """The step asked for, and after "latest" and "best" the ones to fall back to, in order."""
  steps = saved_steps(directory)[::-1]
  if step == "best":
    best = {number: read_best(directory, number) for number in steps}
    return sorted(steps, key=lambda n: -math.inf if best[n] is None else best[n], reverse=True)
  if step == "latest":
    return steps
  if step not in steps:
    raise UserError(f"There is no checkpoint of step {step} in {directory}; there are {steps}.")
  return [step]


def sealed(record: dict) -> dict:
  """The record as JSON gives it back, with the checksum that `read_record` verifies."""
  record = json.loads(json.dumps(record))
  return record | {"sha256": _sha256(record)}


def read_record(directory: pathlib.Path, step: int) -> dict:
  """The record of a checkpoint, with None where the first version has no value.

  Raises:
    CorruptError: it is missing, not what was written, or of another step.
    OSError: it cannot be read.
  """
  try:
    record = parse_json((directory / str(step) / "record" / "metadata").read_bytes())
    intact = isinstance(record, dict) and record.pop("sha256", None) == _sha256(record)
  except (*_MISSING, ValueError, RecursionError) as error:
    raise CorruptError("its record is missing or unreadable") from error
  if not intact:
    raise CorruptError("its record was changed")
  record = {"step": None, "run": None, "best": None} | record
  has_parts = all(isinstance(record.get(name), dict) for name in ("extra", "metrics", "leaves"))
  if not has_parts or not all(map(_is_leaf, record["leaves"].values())):
    raise CorruptError("its record is incomplete")
  if record["step"] not in (None, step):
    raise CorruptError(f"it is the checkpoint of step {record['step']!r}")
  return record


_MISSING = FileNotFoundError, NotADirectoryError, IsADirectoryError


def unreadable(what: str, reason: str) -> str:
  """The sentence for a checkpoint that the system does not give."""
  return (
    f"{what} cannot be read ({reason}), which does not mean that it is corrupt: nothing was moved; "
    "set its permissions or check the disk, then give the same command again."
  )


def read_best(directory: pathlib.Path, step: int) -> float | None:
  """What ranks a step among the best, the higher the better; None: nothing, or no good record.

  Raises:
    UserError: its record cannot be read. The best checkpoint would else pass for one of no rank,
      and be deleted as such.
  """
  try:
    record = read_record(directory, step)
  except CorruptError:
    return None
  except OSError as error:
    what = f"The checkpoint of step {step} in {directory}"
    raise UserError(unreadable(what, error.strerror or str(error))) from error
  value = record["metrics"].get("top1") if record["best"] is None else record["best"]
  return finite(value) if isinstance(value, int | float) else None


def finite(value: float | None) -> float | None:
  return value if value is not None and abs(value) < math.inf else None


def _is_leaf(entry: Any) -> bool:
  return isinstance(entry, list) and len(entry) == 3 and isinstance(entry[1], list)


def _sha256(record: dict) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
