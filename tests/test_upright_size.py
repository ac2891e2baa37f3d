import contextlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pst_jax.preprocessing import decode_upright, upright_size


def encoded(form, orientation=None, **options):
  image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
  exif = Image.Exif()
  if orientation:
    exif[0x0112] = orientation
  buffer = io.BytesIO()
  image.save(buffer, form, exif=exif, **options)
  return buffer.getvalue()


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_header_says_the_size_that_decoding_gives(form, orientation):
  content = encoded(form, orientation)
  assert upright_size(content) == decode_upright(content).shape[:2]


def test_a_progressive_jpeg_is_read_too():
  assert upright_size(encoded("JPEG", progressive=True)) == (20, 30)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_not_decoded_for_its_size(orientation, monkeypatch):
  content = encoded("JPEG", orientation)
  monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
  assert upright_size(content) == ((20, 30) if orientation == 1 else (30, 20))


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8", encoded("PNG")[:30]])
def test_what_is_no_image_is_refused(content):
  with pytest.raises(ValueError, match="no complete image"):
    upright_size(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_every_cut_of_an_image_gives_a_size_or_a_refusal(form):
  content = encoded(form, 6)
  for length in range(len(content)):
    with contextlib.suppress(ValueError):
      assert len(upright_size(content[:length])) == 2


def test_an_image_of_too_many_pixels_is_refused_by_its_header():
  content = bytearray(encoded("PNG"))
  content[16:24] = (2**15).to_bytes(4, "big") * 2
  with pytest.raises(ValueError, match="32768 x 32768 pixels"):
    decode_upright(bytes(content))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
  content = encoded("JPEG", orientation)
  assert upright_size(content) == decode_upright(content).shape[:2]


def test_of_two_orientations_the_one_that_decoding_follows_counts():
  first, second = encoded("JPEG", 6), encoded("JPEG", 1)
  start = second.index(b"\xff\xe1")
  end = start + 2 + int.from_bytes(second[start + 2 : start + 4], "big")
  content = first[:2] + second[start:end] + first[2:]
  assert upright_size(content) == decode_upright(content).shape[:2]


def test_an_orientation_behind_the_pixels_of_a_png_counts_too():
  content = encoded("PNG", 6)
  start = content.index(b"eXIf") - 4
  end = start + 12 + int.from_bytes(content[start : start + 4], "big")
  at = content.index(b"IEND") - 4
  content = content[:start] + content[end:at] + content[start:end] + content[at:]
  assert upright_size(content) == decode_upright(content).shape[:2]
