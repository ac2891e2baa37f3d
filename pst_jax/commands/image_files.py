"""The images that a command is given, and the files that it draws of them."""

import pathlib
from collections import Counter
from collections.abc import Iterator

from pst_jax.buckets import bucket_path, is_url
from pst_jax.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def image_files(names: list[str]) -> Iterator[pathlib.Path]:
  """The files among `names`, and the images in the folders among them, sorted.

  Raises:
    UserError: there is nothing at a name, or nothing that an image could be.
  """
  for name in names:
    path = _local(name, "an image")
    if not path.exists():
      raise UserError(f"{name}: there is no such file or folder; check the path")
    if not path.is_dir():
      if not path.is_file():
        raise UserError(f"{name}: this is no regular file, as an image must be; give another")
      yield path
      continue
    images = (each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    found = sorted(image for image in images if image.is_file())
    if not found:
      raise UserError(
        f"{name}: this folder holds no images ({', '.join(SUFFIXES)}): give one that does"
      )
    yield from found


def drawing_files(
  option: str, out: str | None, paths: list[pathlib.Path], ending: str
) -> list[pathlib.Path]:
  """Where the drawing of each image goes; none if none was asked for.

  Args:
    option, out: such as `--draw` and its value: a .png for one image, or a folder.
    ending: of the names in the folder, after those of the images.

  Raises:
    UserError: one file for several images, a file that is no .png, or two drawings of one name.
  """
  if out is None:
    return []
  place = _local(out, option)
  if place.suffix.lower() == ".png":
    if len(paths) == 1:
      return [place]
    raise UserError(f"{option} {out} is one file, but there are {len(paths)} images: give a folder")
  if place.is_file():
    raise UserError(f"{option} {out} is a file, but no .png: give OUT.png or a folder")
  files = [place / f"{path.stem}{ending}" for path in paths]
  drawn = Counter(files)
  if len(drawn) < len(files):
    raise UserError(
      f"two of the images would both be drawn as {max(drawn, key=drawn.get)}: rename one, or "
      "predict them one folder at a time"
    )
  return files


def _local(name: str, what: str) -> pathlib.Path:
  """The path of a name, which must not be a URL; UserError otherwise."""
  return bucket_path(name, what, schemes=()) if is_url(name) else pathlib.Path(name)
