"""Listing tars: every way of writing them is read, and what lies about its size is refused."""

import io
import os
import tarfile
import tracemalloc

import pytest

from pst_jax.errors import UserError
from train.data.prepare import tars

FILES = {
  "a.jpg": b"1" * 700,
  "long/" * 20 + "name" * 20 + ".jpg": b"2" * 512,
  "c.jpg": b"",
  "d.jpg": b"3",
}


def tar(files, tar_format=tarfile.GNU_FORMAT, pax=None, **fields):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
    for name, content in files.items():
      entry = tarfile.TarInfo(name)
      entry.size, entry.pax_headers = len(content), pax or {}
      for field, value in fields.items():
        setattr(entry, field, value)
      archive.addfile(entry, io.BytesIO(content))
  return buffer.getvalue()


def listed(path, content):
  path.write_bytes(content)
  return {member.name: tars.read_member(path, member) for member in tars.list_members(path)}


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_every_format_is_read(tmp_path, tar_format):
  assert listed(tmp_path / "t.tar", tar(FILES, tar_format)) == FILES


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_letters_are_read(tmp_path, tar_format):
  files = {"Äpfel/ä.jpg": b"x", "ü" * 200: b"y"}
  assert listed(tmp_path / "t.tar", tar(files, tar_format)) == files


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_what_is_no_file_is_left_out(tmp_path, kind):
  content = tar({"x": b""}, type=kind, linkname="l" * 150)[: -tarfile.RECORDSIZE]
  content = content.rstrip(b"\0")
  content += bytes(-len(content) % 512)
  assert listed(tmp_path / "t.tar", content + tar(FILES)) == FILES


def test_global_pax_records_do_not_change_names(tmp_path):
  buffer = io.BytesIO()
  with tarfile.open(
    fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "git"}
  ) as archive:
    entry = tarfile.TarInfo("a")
    entry.size = 1
    archive.addfile(entry, io.BytesIO(b"x"))
  assert listed(tmp_path / "t.tar", buffer.getvalue()) == {"a": b"x"}


SPARSE = {
  "size": {"GNU.sparse.size": "abc"},
  "huge_size": {"GNU.sparse.size": "100000000000", "GNU.sparse.map": "0,1"},
  "real_size": {"GNU.sparse.realsize": "abc", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
  "map": {"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"},
  "form_1": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
}
SIZES = {
  "of_71_bits": {"size": str(2**70)},
  "that_is_text": {"size": "abc"},
  "that_is_negative": {"size": "-1"},
  "of_other_digits": {"size": "\u0663"},
  "beyond_the_tar": {"size": "100000"},
}


@pytest.mark.parametrize("pax", [*SPARSE.values(), *SIZES.values()], ids=[*SPARSE, *SIZES])
def test_pax_records_that_lie_are_refused(tmp_path, pax):
  content = tar({"a": b"x"}, tarfile.PAX_FORMAT, pax=pax)
  with pytest.raises(UserError, match=r"cannot be read as a tar \(.*\): download it again"):
    listed(tmp_path / "t.tar", content)


def test_an_old_gnu_sparse_file_is_refused(tmp_path):
  with pytest.raises(UserError, match="a sparse file at byte 0"):
    listed(tmp_path / "t.tar", with_checksum(tar({"a": b"x"}), 156, b"S"))


def with_checksum(content, at, field):
  header = bytearray(content[:512])
  header[at : at + len(field)] = field
  header[148:156] = b" " * 8
  header[148:156] = b"%06o\0 " % sum(header)
  return bytes(header) + content[512:]


@pytest.mark.parametrize(
  "field", [b"\x80" + (2**40).to_bytes(11, "big"), b"\xff" * 12, b"77777777777\0", b"9999\0"]
)
def test_a_size_beyond_the_tar_is_refused_without_memory(tmp_path, field):
  for kind in (b"0", b"L", b"x"):
    content = with_checksum(with_checksum(tar({"a": b"x"}), 124, field), 156, kind)
    tracemalloc.start()
    with pytest.raises(UserError, match="cannot be read as a tar"):
      listed(tmp_path / "t.tar", content)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
  "records", [b"5 a\n", b"99 path=a\n", b"path=a\n", b"9 path=a", b"0 a=b\n", b"\xff"]
)
def test_damaged_pax_records_are_refused(tmp_path, records):
  content = with_checksum(tar({"a": records}), 156, b"x")
  with pytest.raises(UserError, match=r"pax records|no number"):
    listed(tmp_path / "t.tar", content)


def test_a_changed_header_is_found_by_its_checksum(tmp_path):
  content = bytearray(tar(FILES))
  content[3] ^= 1
  with pytest.raises(UserError, match="no header and no end at byte 0"):
    listed(tmp_path / "t.tar", bytes(content))


def test_a_tar_that_is_a_fifo_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "t.tar")
  with pytest.raises(UserError, match="it is no regular file"):
    tars.list_members(tmp_path / "t.tar")
