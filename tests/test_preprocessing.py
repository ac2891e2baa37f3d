"""Decoding, resizing and the evaluation's crop."""

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pst_jax.errors import UserError
from pst_jax.image_headers import Size, image_size
from pst_jax.preprocessing import MAX_PIXELS, decode, evaluation_crop, resize


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def encoded(image, **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, **options)
  return buffer.getvalue()


def test_png_is_decoded_to_the_same_rgb_values():
  image = noise(9, 7)
  np.testing.assert_array_equal(decode(encoded(image, format="PNG")), image)


def test_jpeg_is_decoded_to_the_same_values_as_pillow():
  file = encoded(noise(60, 80), format="JPEG", quality=90)
  np.testing.assert_array_equal(decode(file), np.asarray(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_gray_becomes_three_equal_channels(image_format):
  image = decode(encoded(noise(9, 7)[..., 0], format=image_format))
  assert image.shape == (9, 7, 3)
  assert (image == image[..., :1]).all()


def test_the_orientation_tag_is_ignored():
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees
  file = encoded(noise(16, 32), format="JPEG", exif=exif)
  assert decode(file).shape == (16, 32, 3)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_an_image_cut_short_is_refused(image_format, kept):
  file = encoded(noise(60, 80), format=image_format)
  with pytest.raises(ValueError, match="no complete image"):
    decode(file[: int(kept * len(file))])


def test_bytes_that_are_no_image_are_refused():
  with pytest.raises(ValueError, match="11 bytes that are no complete image"):
    decode(b"hello world")


def test_shrinking_does_not_alias():
  stripes = np.zeros((90, 90, 3), np.uint8)
  stripes[:, ::2] = 255  # a bilinear sample at every third pixel would see moving stripes
  shrunk = resize(stripes, 30, 30).astype(int)
  assert np.ptp(shrunk) < 100


@pytest.mark.parametrize("size", [(225, 193), (1, 1), (20, 500), (31, 33)])
@pytest.mark.parametrize("eval_crop", [1.0, 0.875, 0.3])
def test_the_evaluation_crop_is_a_square_of_image_size(size, eval_crop):
  assert evaluation_crop(noise(*size), 32, eval_crop).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_strip_takes_little_memory(size):
  """Whole and 256 pixels wide it would take 12 GB."""
  strip = np.zeros((*size, 3), np.uint8)
  strip[strip.shape[0] // 2, strip.shape[1] // 2] = 255
  cut = evaluation_crop(strip, 224, 0.875)
  assert cut.shape == (224, 224, 3)
  assert cut.max() > 128


def test_evaluation_cuts_the_centre_of_the_resized_image():
  image = noise(40, 60)
  cut = evaluation_crop(image, 32, eval_crop=0.8)  # the short side stays 40
  np.testing.assert_array_equal(cut, image[4:36, 14:46])


def test_opencv_starts_no_threads_of_its_own():
  assert cv2.getNumThreads() == 1


# --- sizes that headers claim ---

FORMS = {
  "baseline_jpeg": {"format": "JPEG"},
  "progressive_jpeg": {"format": "JPEG", "progressive": True},
  "jpeg_with_segments": {"format": "JPEG", "comment": b"c" * 60_000, "icc_profile": bytes(70_000)},
  "png": {"format": "PNG"},
  "webp": {"format": "WEBP"},
  "lossless_webp": {"format": "WEBP", "lossless": True},
  "extended_webp": {"format": "WEBP", "icc_profile": bytes(128)},
  "bmp": {"format": "BMP"},
  "gif": {"format": "GIF"},
  "tiff": {"format": "TIFF"},
  "compressed_tiff": {"format": "TIFF", "compression": "tiff_lzw"},
  "big_tiff": {"format": "TIFF", "big_tiff": True},
  "pnm": {"format": "PPM"},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_header_says_the_size_that_is_decoded(form):
  content = encoded(noise(37, 59), **FORMS[form])
  assert image_size(content) == decode(content).shape[:2] == (37, 59)


def test_a_bmp_from_top_to_bottom_has_a_negative_height():
  content = bytearray(encoded(noise(5, 4), format="BMP"))
  content[22:26] = struct.pack("<i", -5)
  assert image_size(bytes(content)) == Size(5, 4)


def test_a_tiff_of_the_other_byte_order():
  image = cv2.imencode(".tiff", noise(37, 59))[1].tobytes()
  assert image_size(image) == (37, 59)
  fields = struct.pack(">HHIHHIHHI", 256, 4, 1, 59, 0, 0, 0, 0, 0)[:8] + struct.pack(">I", 59)
  fields += struct.pack(">HHI", 257, 4, 1) + struct.pack(">I", 37)
  assert image_size(b"MM\0*" + struct.pack(">IH", 8, 2) + fields) == (37, 59)


@pytest.mark.parametrize("form", FORMS)
def test_every_header_that_is_cut_short_has_no_size_or_the_right_one(form):
  content = encoded(noise(37, 59), **FORMS[form])
  assert {image_size(content[:end]) for end in range(min(len(content), 200))} <= {None, (37, 59)}


def chunk(kind, content):
  return (
    struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
  )


def bomb(side):
  """A valid PNG of side x side black pixels of one bit."""
  packer, rows = zlib.compressobj(9), []
  for _ in range(side):
    rows.append(packer.compress(bytes(1 + side // 8)))
  rows.append(packer.flush())
  header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    chunk(kind, content)
    for kind, content in ((b"IHDR", header), (b"IDAT", b"".join(rows)), (b"IEND", b""))
  )


def test_a_decompression_bomb_is_refused_before_it_takes_memory():
  content = bomb(16_000)
  assert len(content) < 100_000
  tracemalloc.start()
  with pytest.raises(ValueError, match=r"^16000 x 16000 pixels, where 67,108,864 are the most"):
    decode(content)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


def test_the_limit_itself_is_decoded():
  content = bomb(64)
  assert decode(content, max_pixels=64 * 64).shape == (64, 64, 3)
  with pytest.raises(ValueError, match="64 x 64 pixels, where 4,095"):
    decode(content, max_pixels=64 * 64 - 1)
  assert MAX_PIXELS == 8192**2


def test_the_environment_sets_another_limit(monkeypatch):
  monkeypatch.setenv("PST_JAX_MAX_PIXELS", "4095")
  with pytest.raises(ValueError, match="make it smaller, or set PST_JAX_MAX_PIXELS"):
    decode(bomb(64))
  monkeypatch.setenv("PST_JAX_MAX_PIXELS", "4096")
  assert decode(bomb(64)).shape == (64, 64, 3)


@pytest.mark.parametrize("given", ["", "0", "-1", "many", "1e9"])
def test_a_limit_that_is_no_number_is_an_error(monkeypatch, given):
  monkeypatch.setenv("PST_JAX_MAX_PIXELS", given)
  with pytest.raises(UserError, match=f"is '{given}', but it must be a whole number from 1"):
    decode(bomb(64))


def test_a_form_whose_header_is_not_read_is_not_decoded():
  content = cv2.imencode(".jp2", noise(64, 64))[1].tobytes()
  assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None
  with pytest.raises(ValueError, match="no complete image"):
    decode(content)
