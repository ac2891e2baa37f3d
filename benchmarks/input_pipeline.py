"""Images per second of the training input pipeline, against Pillow and tf.data, in one run.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --quick    # one round: is all in order?
    python -m benchmarks.input_pipeline --photographs FOLDER

Writes 512 JPEGs of about 500 x 375 pixels as a TFDS data set into a temporary folder (painted, or
parts of the JPEGs in FOLDER, made smaller), then reads it for training at 224 (random resized crop,
mirroring) with 1 and 2 threads. The other side reads the same records and does torchvision's
operations as Pillow calls (decode, convert, random box, crop, bilinear resize, mirror, array), one
image after the other and in a pool of 2 threads. Where TensorFlow is installed (pip install
tensorflow-cpu), tf.data does those of Flax's ImageNet example too, from the same records in a
TFRecord file: shuffling, decoding of the random box alone, bicubic resize, mirroring. All also read
what `train.prepare --short-side` makes of the same images, with 400 and 320 pixels. The sides take
turns, and the best of the rounds counts, so that other work on the machine hurts both alike; images
per second of CPU time hardly depend on other work at all.
"""

import contextlib
import importlib.util
import io
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.common import make_parser, photograph
from train import prepare
from train.config import DataConfig
from train.data import train_batches
from train.data.prepare.smaller import builder_config, full_name
from train.data.sources import TfdsRecords
from train.tasks.classification import crops as images
from train.tasks.classification.data import open_dataset

NUM_IMAGES = 512
SHORT_SIDES = (400, 320)
BATCH = 32
ROUNDS = 5
BATCHES_PER_ROUND = 8


def part_of(path: pathlib.Path, rng, height: int, width: int) -> bytes:
  """A JPEG of that size: at least half of a photograph's height or width, wherever it lies."""
  whole = Image.open(path).convert("RGB")
  scale = rng.uniform(0.5, 1) * min(whole.height / height, whole.width / width)
  left, top = (
    rng.uniform(0, side - scale * new)
    for side, new in ((whole.width, width), (whole.height, height))
  )
  box = (left, top, left + scale * width, top + scale * height)
  part = whole.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3)
  encoded = io.BytesIO()
  part.save(encoded, "JPEG", quality=95)
  return encoded.getvalue()


def write_photos(folder: pathlib.Path, photographs: list[pathlib.Path]) -> None:
  """Photographs of ten classes, as a data set that training reads."""
  rng = np.random.default_rng(0)
  for split, count in (("train", NUM_IMAGES), ("test", 10)):
    for index in range(count):
      path = folder / "source" / split / str(index % 10) / f"{index}.jpg"
      path.parent.mkdir(parents=True, exist_ok=True)
      width, height = rng.integers(480, 521), rng.integers(355, 396)
      if photographs:
        path.write_bytes(part_of(photographs[index % len(photographs)], rng, height, width))
      else:
        path.write_bytes(photograph(rng, height, width))
  place = ["--source", str(folder / "source"), "--name", "photos", "--data-dir", str(folder)]
  prepare.main(["folder", *place])
  for side in SHORT_SIDES:
    prepare.main(["folder", *place, "--short-side", str(side)])


def pillow_example(encoded: bytes, rng: np.random.Generator, config: DataConfig) -> np.ndarray:
  """torchvision's RandomResizedCrop and RandomHorizontalFlip, written out."""
  image = Image.open(io.BytesIO(encoded)).convert("RGB")
  top, left, height, width = images.sample_box(rng, image.height, image.width, config.min_scale)
  image = image.crop((left, top, left + width, top + height))
  image = image.resize((config.image_size, config.image_size), Image.Resampling.BILINEAR)
  if rng.random() < 0.5:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return np.asarray(image)


def pillow_batches(records, config: DataConfig, map_: Callable) -> Iterator[np.ndarray]:
  rng = np.random.default_rng(0)
  while True:
    for start in range(0, len(records), BATCH):

      def load(index: int, seed: int) -> np.ndarray:
        return pillow_example(records[index]["image"], np.random.default_rng(seed), config)

      seeds = rng.integers(2**32, size=BATCH)
      yield np.stack(list(map_(load, range(start, start + BATCH), seeds)))


def write_tf_records(path: pathlib.Path, records: TfdsRecords) -> str:
  """The same examples, as tf.data reads them."""
  import tensorflow as tf

  with tf.io.TFRecordWriter(str(path)) as writer:
    for index in range(NUM_IMAGES):
      writer.write(records.source.data_source[index])
  return str(path)


def tf_data_batches(path: str, config: DataConfig, threads: int) -> Iterator:
  """The operations of Flax's ImageNet example for training, but for the normalisation."""
  import tensorflow as tf

  size = config.image_size
  features = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
  }

  def load(record, seed):
    example = tf.io.parse_single_example(record, features)
    image = example["image"]
    top_left, crop, _ = tf.image.stateless_sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(image),
      tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
      seed,
      min_object_covered=0.1,
      aspect_ratio_range=images.ASPECT_RATIOS,
      area_range=(config.min_scale, 1.0),
      max_attempts=images.CROP_TRIES,
    )
    window = tf.concat([top_left[:2], crop[:2]], axis=0)
    image = tf.io.decode_and_crop_jpeg(image, window, channels=3)
    image = tf.image.resize(image, (size, size), tf.image.ResizeMethod.BICUBIC)
    return tf.image.stateless_random_flip_left_right(image, seed), example["label"]

  records = tf.data.TFRecordDataset(path).repeat().shuffle(16 * BATCH)
  seeds = tf.data.Dataset.random().batch(2, drop_remainder=True)
  examples = tf.data.Dataset.zip(records, seeds).map(load, num_parallel_calls=threads)
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  yield from examples.batch(BATCH).prefetch(1).with_options(options).as_numpy_iterator()


class Repeated(Sequence):
  """As many records as ImageNet's: Grain takes 110 us to shuffle one of 512, and 5 of a million."""

  def __init__(self, records: Sequence):
    self.records = records

  def __len__(self) -> int:
    return 1_281_167

  def __getitem__(self, index: int):
    return self.records[index % len(self.records)]


def sides_of(name: str, config: DataConfig, pool: futures.Executor) -> dict[str, Callable]:
  """What is compared, by name, on one data set."""
  dataset = open_dataset(config)
  sizes = [len(dataset.train[index]["image"]) for index in range(NUM_IMAGES)]
  print(f"{np.mean(sizes) / 1000:6.0f} kB each{name}")

  repeated = replace(dataset, train=Repeated(dataset.train))

  def ours(threads: int) -> Iterator:
    threaded = replace(config, threads=threads)
    return train_batches(repeated, threaded, seed=0, batch_size=BATCH, first_step=0)

  sides = {
    f"Pillow{name}, 1 thread": lambda: pillow_batches(dataset.train, config, map),
    f"Pillow{name}, 2 threads": lambda: pillow_batches(dataset.train, config, pool.map),
    f"this pipeline{name}, 1 thread": lambda: ours(1),
    f"this pipeline{name}, 2 threads": lambda: ours(2),
  }
  if importlib.util.find_spec("tensorflow"):
    path = write_tf_records(pathlib.Path(config.data_dir) / f"{NUM_IMAGES}{name}", dataset.train)
    sides |= {
      f"tf.data{name}, 1 thread": lambda: tf_data_batches(path, config, 1),
      f"tf.data{name}, 2 threads": lambda: tf_data_batches(path, config, 2),
    }
  return sides


def rates(start_side: Callable[[], Iterator]) -> np.ndarray:
  """Images per second and per second of CPU time, once the first batch is there.

  A side is closed before the next one starts, so that none reads ahead while others are timed.
  """
  with contextlib.closing(start_side()) as batches:
    next(batches)
    start = np.array([time.perf_counter(), time.process_time()])
    for _ in range(BATCHES_PER_ROUND):
      next(batches)
    seconds = np.array([time.perf_counter(), time.process_time()]) - start
    return BATCHES_PER_ROUND * BATCH / seconds


def main() -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the best counts")
  parser.add_argument("--quick", action="store_true", help="one round")
  parser.add_argument("--photographs", metavar="FOLDER", type=pathlib.Path, help="of JPEGs")
  options = parser.parse_args()
  photographs = sorted(options.photographs.rglob("*.jpg")) if options.photographs else []
  if options.photographs and not photographs:
    parser.error(f"there is no .jpg below {options.photographs}")
  rounds = 1 if options.quick else options.rounds
  with tempfile.TemporaryDirectory() as folder, futures.ThreadPoolExecutor(2) as pool:
    with contextlib.redirect_stdout(io.StringIO()):
      write_photos(pathlib.Path(folder), photographs)
    print(f"{NUM_IMAGES} JPEGs, random resized crop to 224; on average")
    sides = {}
    for side in (None, *SHORT_SIDES):
      name, dataset = f" of {side}" if side else "", full_name("photos", builder_config(side))
      config = DataConfig(dataset=dataset, data_dir=folder, eval_split="test", image_size=224)
      sides |= sides_of(name, config, pool)
    if not importlib.util.find_spec("tensorflow"):
      print("tf.data is left out: TensorFlow is not installed (pip install tensorflow-cpu)")
    best = dict.fromkeys(sides, np.zeros(2))
    for _ in range(rounds):
      for name, start_side in sides.items():
        best[name] = np.maximum(best[name], rates(start_side))
    baseline = best["Pillow, 1 thread"]
    print(f"{'':34s}{'images/s':>12s}{'ratio':>8s}{'per CPU-second':>18s}{'ratio':>8s}")
    for name, (wall, cpu) in best.items():
      ratios = best[name] / baseline
      print(f"{name:34s}{wall:12.0f}{ratios[0]:8.2f}{cpu:18.0f}{ratios[1]:8.2f}")


if __name__ == "__main__":
  main()
