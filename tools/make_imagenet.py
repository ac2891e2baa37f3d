"""Makes a tiny ImageNet in the official form: two tars of drawn images, for tests and for trying.

  python tools/make_imagenet.py data/tars --images 40
  python -m train.prepare imagenet2012 --manual-dir data/tars --data-dir data/tiny --subset
  python -m train configs/classification/imagenet_tiny.py

Ten real classes under their official names; each has its own colour and stripes, so that a small
network can learn them. One image is a CMYK JPEG and one a PNG, under the names of two that are so
in the real data set. Validation images have the official numbers of images of these classes.
What `pip install -e '.[train]'` brings is enough to run it.
"""

import argparse
import io
import pathlib
import sys
import tarfile

import cv2
import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the trainer of this clone
from train.data.prepare.imagenet import (
  TRAIN_TAR,
  VALIDATION_NAME,
  VALIDATION_TAR,
  class_names,
  validation_labels,
)

CMYK_NAME = "n02077923_14822.JPEG"
# Drawn as the others are, and encoded with Pillow: OpenCV writes no CMYK.
CMYK_FILE = pathlib.Path(__file__).with_name("cmyk.jpeg")
PNG_NAME = "n02105855_2933.JPEG"
CLASSES = (
  *("n01735189", "n01751748", "n02077923", "n02105855", "n02328150"),
  *("n02346627", "n02776631", "n03125729", "n04263257", "n09193705"),
)


def draw(class_index: int, image_index: int) -> UInt8[np.ndarray, "height width 3"]:
  """Stripes whose direction and colour belong to the class, at a random place, with noise."""
  rng = np.random.default_rng((class_index, image_index))
  height, width = rng.integers(48, 97, size=2)
  y, x = np.mgrid[:height, :width]
  angle = np.pi * class_index / len(CLASSES)
  wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 3 + rng.uniform(0, 2 * np.pi))
  colour = np.random.default_rng(class_index).uniform(0.2, 1, size=3)
  pixels = (127 + 100 * wave[..., None]) * colour + rng.normal(0, 12, (height, width, 3))
  return pixels.clip(0, 255).astype(np.uint8)


def encode(image: UInt8[np.ndarray, "height width 3"], name: str) -> bytes:
  if name == CMYK_NAME:
    return CMYK_FILE.read_bytes()
  form = ".png" if name == PNG_NAME else ".jpeg"
  return cv2.imencode(form, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def make_tar(files: dict[str, bytes]) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
    for name, content in files.items():
      entry = tarfile.TarInfo(name)
      entry.size = len(content)
      tar.addfile(entry, io.BytesIO(content))
  return buffer.getvalue()


def training_images(images_per_class: int) -> dict[str, dict[str, bytes]]:
  """{class: {name: bytes}}, in an order other than that of the names, as in the real tars."""
  special = {name[:9]: name for name in (CMYK_NAME, PNG_NAME)}
  found = {}
  for class_index, synset in enumerate(CLASSES):
    names = [f"{synset}_{7 * index + 3}.JPEG" for index in reversed(range(images_per_class))]
    if synset in special:
      names[-1] = special[synset]
    found[synset] = {name: encode(draw(class_index, i), name) for i, name in enumerate(names)}
  return found


def validation_images(images_per_class: int) -> dict[str, bytes]:
  """{name: bytes}: the first images of the real validation split that are of these classes."""
  left, found = dict.fromkeys(CLASSES, images_per_class), {}
  for number, synset in enumerate(validation_labels(), start=1):
    if left.get(synset):
      left[synset] -= 1
      name = VALIDATION_NAME.format(number)
      found[name] = encode(draw(CLASSES.index(synset), 10_000 + number), name)
  return found


def make(folder: pathlib.Path, images_per_class: int = 4) -> None:
  """Writes both tars; a quarter as many validation images, at least one, as training images."""
  assert set(CLASSES) <= set(class_names())
  folder.mkdir(parents=True, exist_ok=True)
  inner = {
    f"{synset}.tar": make_tar(files) for synset, files in training_images(images_per_class).items()
  }
  (folder / TRAIN_TAR).write_bytes(make_tar(inner))
  (folder / VALIDATION_TAR).write_bytes(make_tar(validation_images(max(1, images_per_class // 4))))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("folder", type=pathlib.Path, help="where the tars go")
  parser.add_argument("--images", type=int, default=12, help="training images of each class")
  options = parser.parse_args()
  make(options.folder, options.images)
