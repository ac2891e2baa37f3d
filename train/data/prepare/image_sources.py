"""Where the images of a data set lie: in a folder, or in a zip that is read in place."""

import pathlib
import zipfile

from pst_jax.errors import UserError


def read_file(path: pathlib.Path, advice: str = "repair or remove it") -> bytes:
  """The bytes of a file; raises UserError with the advice where it cannot be read."""
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): {advice}") from error


class FolderSource:
  """Images as files in a folder; they are read from many threads."""

  def __init__(self, root: pathlib.Path):
    self.root = root

  def __str__(self) -> str:
    return str(self.root)

  def num_bytes(self, name: str) -> int | None:
    """The size of an image's file; None where there is none."""
    try:
      path = self.root / name
      return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
      return None

  def read(self, name: str) -> bytes:
    return read_file(self.root / name)


class ZipSource:
  """Images in a folder of a zip, read in place; see `open_zip`."""

  def __init__(self, path: pathlib.Path, folder: str):
    self.path, self.folder = path, folder
    self._zip = open_zip(path)
    self._members = {info.filename: info for info in self._zip.infolist()}

  def __str__(self) -> str:
    return str(self.path)

  def __len__(self) -> int:
    return sum(name.startswith(f"{self.folder}/") and name[-1] != "/" for name in self._members)

  def num_bytes(self, name: str) -> int | None:
    member = self._members.get(f"{self.folder}/{name}")
    return member and member.file_size

  def read(self, name: str) -> bytes:
    return read_zip(self._zip, self.path, f"{self.folder}/{name}")


def open_zip(path: pathlib.Path) -> zipfile.ZipFile:
  """Opens a zip for reading.

  Raises:
    UserError: it is not there, cannot be read, or ends too early.
  """
  try:
    return zipfile.ZipFile(path)
  except FileNotFoundError:
    raise UserError(
      f"{path} was not found: give the folder that holds it with --manual-dir"
    ) from None
  except (zipfile.BadZipFile, OSError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"{path} cannot be read as a zip ({reason}): download it again") from error


def read_zip(archive: zipfile.ZipFile, path: pathlib.Path, member: str) -> bytes:
  """The bytes of one file of a zip, whose checksum was right.

  Raises:
    UserError: it is not there, or the zip is damaged.
  """
  try:
    return archive.read(member)
  except KeyError:
    raise UserError(f"{path} holds no {member}: download it again") from None
  except Exception as error:  # zlib, zipfile and the system each have their own kinds
    raise UserError(f"{member} in {path} cannot be read ({error}): download it again") from error
