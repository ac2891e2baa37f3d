"""Files that are damaged or mean harm: one sentence, nothing run, no memory for empty claims."""

import codecs
import io
import random
import re
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from support import hostile_files as made

from pst_jax.convert.formats.safetensors_file import read_safetensors, write_safetensors
from pst_jax.convert.formats.torch_file import read_torch_file

GOOD = {"w": made.tensor()}
RUNNING_CODE = ("exec", "compile", "import", "pickle.find_class", "ctypes.dlopen")
RUNNING_PROGRAMS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen")

events = None


def _listen(event, arguments):
  if events is not None:
    events.append((event, arguments))


sys.addaudithook(_listen)

# Python imports a codec on its first use, which is code, but none of the file's.
for codec in ("ascii", "cp437", "latin-1", "raw-unicode-escape", "utf-8"):
  codecs.lookup(codec)


def refuse(path, content):
  """The text of the ValueError that reading `content` must raise; also checks its memory."""
  global events
  path.write_bytes(content)
  tracemalloc.start()
  events = []
  try:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
      read_torch_file(path)
    used, seen = tracemalloc.get_traced_memory()[1], events
  finally:
    events = None
    tracemalloc.stop()
  assert used < 64 * 1024 * 1024
  assert not [event for event in seen if event[0] in (*RUNNING_CODE, *RUNNING_PROGRAMS)]
  text = str(error.value)
  assert text.startswith(f"{path}: ")
  assert text.isprintable()
  return text


@pytest.mark.parametrize("wrap", [made.archive, made.legacy])
@pytest.mark.parametrize("name", made.CODE)
def test_code_is_refused_by_the_name_of_what_it_asked_for(tmp_path, monkeypatch, name, wrap):
  monkeypatch.chdir(tmp_path)
  value, asked_for = made.CODE[name]
  text = refuse(tmp_path / "evil.pt", wrap(value))
  assert f"its pickle asks for {asked_for}" in text or f"{asked_for}, which is no part" in text
  assert not (tmp_path / "CANARY").exists()


def test_the_canary_is_made_by_an_unpickler_that_runs_code(tmp_path, monkeypatch):
  """The files above do mean harm: Python's own unpickler runs them."""
  import pickle

  monkeypatch.chdir(tmp_path)
  pickle.loads(made.pickled(made.CODE["os_system"][0]))
  assert (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", made.NONSENSE)
def test_nonsense_is_an_error_that_says_what_is_wrong(tmp_path, name):
  value, what = made.NONSENSE[name]
  assert what in refuse(tmp_path / "bad.pt", made.archive(value))


@pytest.mark.parametrize("wrap", [made.archive, made.legacy])
@pytest.mark.parametrize("name", made.REPETITIONS)
def test_what_a_pickle_repeats_is_refused_before_it_takes_time_or_memory(tmp_path, name, wrap):
  content = wrap(made.REPETITIONS[name](4000))
  assert len(content) < 700_000
  text = refuse(tmp_path / "r.pt", content)
  assert re.search(r"repeats its values|repeat without end|10,000 dictionary keys", text)


@pytest.mark.parametrize("name", ["module", "class", "storage"])
def test_names_of_any_length_are_refused(tmp_path, name):
  long = "x" * 1001
  value = {
    "module": made.Name(f"{long} Net"),
    "class": made.Name(f"mine {long}"),
    "storage": made.tensor(of=made.storage(key=long)),
  }[name]
  assert "more than 1000 letters" in refuse(tmp_path / "n.pt", made.archive(value))


def test_good_file_of_the_same_making_is_read(tmp_path):
  for wrap in (made.archive, made.legacy):
    (tmp_path / "good.pt").write_bytes(wrap(GOOD))
    array = read_torch_file(tmp_path / "good.pt").state_dict["w"]
    assert (array.shape, array.tobytes()) == ((2, 3), bytes(range(24)))


def test_too_many_operations_are_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr("pst_jax.convert.formats.data_pickle.MAX_OPCODES", 1000)
  assert "more than 1,000 operations" in refuse(
    tmp_path / "long.pt", made.archive(made.Raw(b"N0" * 600 + b"N"))
  )


# --- the archive around the pickle ---


@pytest.mark.parametrize("kept", [4, 30, 100, 0.5, 0.9, -22, -1])
def test_truncated_archive(tmp_path, kept):
  content = made.archive(GOOD)
  end = int(kept * len(content)) if isinstance(kept, float) else kept
  assert "damaged or cut short" in refuse(tmp_path / "cut.pt", content[:end])


@pytest.mark.parametrize("missing", [1, 8, 24, 25, 32, 33])
def test_truncated_legacy_file(tmp_path, missing):
  assert "get the file again" in refuse(tmp_path / "cut.pt", made.legacy(GOOD)[:-missing])


@pytest.mark.parametrize(
  "content",
  [
    b"hello, these are words\n",
    b"\x00" * 100,
    b"\x89PNG\r\n\x1a\n",
    b"XX" + made.archive(GOOD)[2:],
  ],
  ids=["text", "zeros", "picture", "wrong_magic"],
)
def test_something_else(tmp_path, content):
  assert "this is no PyTorch file" in refuse(tmp_path / "other.pt", content)


def test_pickle_that_torch_did_not_write(tmp_path):
  assert "torch.save did not write" in refuse(tmp_path / "p.pt", made.pickled({"w": 1}))


def test_code_in_a_bare_pickle_is_named(tmp_path):
  text = refuse(tmp_path / "p.pt", made.pickled(made.CODE["os_system"][0]))
  assert "posix.system" in text


def test_empty_file(tmp_path):
  (tmp_path / "empty.pt").touch()
  with pytest.raises(ValueError, match="empty"):
    read_torch_file(tmp_path / "empty.pt")


def test_directory(tmp_path):
  with pytest.raises(ValueError, match="a directory, where a file of weights was expected"):
    read_torch_file(tmp_path)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such file; check the path"):
    read_torch_file(tmp_path / "nothing.pt")


def test_torchscript_archive(tmp_path):
  text = refuse(tmp_path / "s.pt", made.archive(GOOD, made.RECORDS | {"constants.pkl": b""}))
  assert "TorchScript" in text


def test_archive_of_something_else(tmp_path):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as file:
    file.writestr("a/readme.txt", "hello")
  assert "no record data.pkl" in refuse(tmp_path / "z.pt", buffer.getvalue())


@pytest.mark.parametrize("name", ["../outside", "data/../../outside", "/etc/outside", "data/.."])
def test_record_outside_of_the_archive(tmp_path, name):
  text = refuse(tmp_path / "t.pt", made.archive(GOOD, made.RECORDS | {name: b"x"}))
  assert "outside" in text
  assert not list(tmp_path.parent.glob("**/outside"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
def test_two_records_of_one_name(tmp_path, name):
  records = [*made.RECORDS.items(), (name, bytes(24))]
  text = refuse(tmp_path / "d.pt", made.archive(GOOD, records))
  assert f"two records called archive/{name}" in text


def test_compressed_bomb(tmp_path):
  records = made.RECORDS | {"data/0": bytes(100 * 2**20)}
  value = {"w": made.tensor((25 * 2**20,), (1,), of=made.storage(size=25 * 2**20))}
  content = made.archive(value, records, compression=zipfile.ZIP_DEFLATED)
  assert len(content) < 2**20
  assert "is compressed" in refuse(tmp_path / "b.pt", content)


def patch_directory(content, name, field, value):
  """Sets 4 bytes of the central directory's record `name`.

  Fields: 8 flags, 10 compression method (2 bytes, as the flags), 20 packed size, 24 plain size.
  """
  start = content.rindex(b"PK\x01\x02", 0, content.rindex(name))
  return content[: start + field] + struct.pack("<I", value) + content[start + field + 4 :]


@pytest.mark.parametrize("method", [8, 12, 14, 99])
def test_compression_method_that_the_sizes_do_not_show(tmp_path, method):
  content = patch_directory(made.archive(GOOD), b"archive/data/0", 10, method)
  assert "is compressed" in refuse(tmp_path / "m.pt", content)


def test_record_that_claims_gigabytes(tmp_path):
  content = made.archive({"w": made.tensor((2**29,), (1,), of=made.storage(size=2**29))})
  for field in (20, 24):
    content = patch_directory(content, b"archive/data/0", field, 2**31)
  assert "claim more bytes than the file has" in refuse(tmp_path / "c.pt", content)


def test_record_whose_two_sizes_differ(tmp_path):
  content = patch_directory(made.archive(GOOD), b"archive/data/0", 24, 2**31)
  assert "is compressed" in refuse(tmp_path / "c.pt", content)


def test_encrypted_record(tmp_path):
  content = patch_directory(made.archive(GOOD), b"archive/data/0", 8, 1)
  assert "encrypted" in refuse(tmp_path / "e.pt", content)


def test_flipped_weight_is_found_by_the_checksum(tmp_path):
  content = made.archive(GOOD)
  position = content.index(bytes(range(24)))
  flipped = content[:position] + b"\xff" + content[position + 1 :]
  assert "Bad CRC-32" in refuse(tmp_path / "f.pt", flipped)


def test_unknown_byte_order(tmp_path):
  text = refuse(tmp_path / "o.pt", made.archive(GOOD, made.RECORDS | {"byteorder": b"middle"}))
  assert "middle, where little or big" in text


@pytest.mark.parametrize(
  "keys, size", [((), 6), (("1",), 6), ((0,), 6), (("0",), -1), (("0",), 5), (("0",), 2**60)]
)
def test_legacy_storages_that_do_not_fit_the_pickle(tmp_path, keys, size):
  storages = struct.pack("<q", size) + bytes(24)
  text = refuse(tmp_path / "l.pt", made.legacy(GOOD, keys, storages))
  assert "storage" in text


# --- random damage ---


def damaged(content, seed):
  """`content` with a few bytes changed, left out, put in, copied, or all after some point gone."""
  rng = random.Random(seed)
  content = bytearray(content)
  for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
    at = rng.randrange(len(content))
    other = rng.randrange(len(content))
    kind = rng.choice(["set", "set", "set", "flip", "remove", "insert", "copy", "cut"])
    if kind == "set":
      content[at] = rng.randrange(256)
    elif kind == "flip":
      content[at] ^= 1 << rng.randrange(8)
    elif kind == "remove":
      del content[at : at + rng.randrange(1, 9)]
    elif kind == "insert":
      content[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == "copy":
      content[at : at + 8] = content[other : other + 8]
    elif kind == "cut":
      del content[at:]
    content = content or bytearray(1)
  return bytes(content)


def checkpoint():
  norm = made.module(
    "torch.nn.modules.batchnorm BatchNorm2d", {"weight": made.tensor((3,), (1,), 3)}
  )
  network = made.module("foreign.tasks Net", {"w": made.tensor(), "none": None}, {"bn": norm})
  settings = made.Shell(made.Name("types SimpleNamespace"), {"epochs": 1})
  return {"epoch": 3, "model": network, "ema": network, "train_args": settings}


def archive_of_damaged_pickle(seed):
  """Damage that no checksum of the archive finds, so that the pickle machine meets it."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as file:
    file.writestr("archive/data.pkl", damaged(made.pickled(checkpoint()), seed))
    file.writestr("archive/data/0", bytes(24))
  return buffer.getvalue()


FUZZED = {
  "archive": lambda seed: damaged(made.archive(checkpoint()), seed),
  "pickle": archive_of_damaged_pickle,
  "legacy": lambda seed: damaged(made.legacy(checkpoint()), seed),
}


@pytest.mark.parametrize("kind", FUZZED)
def test_random_damage_raises_value_error_or_is_read(tmp_path, kind):
  outcomes = set()
  for seed in range(250):
    (tmp_path / "fuzz.pt").write_bytes(FUZZED[kind](seed))
    try:
      read_torch_file(tmp_path / "fuzz.pt")
      outcomes.add("read")
    except ValueError as error:
      assert "\n" not in str(error)
      outcomes.add("refused")
  assert outcomes == {"read", "refused"}


def test_random_damage_of_safetensors_raises_value_error_or_is_read(tmp_path):
  write_safetensors(
    tmp_path / "good", {"b": np.zeros((2, 3)), "a": np.ones(3, np.float16)}, {"x": 1}
  )
  content = (tmp_path / "good").read_bytes()
  outcomes = set()
  for seed in range(250):
    (tmp_path / "fuzz").write_bytes(damaged(content, seed))
    try:
      read_safetensors(tmp_path / "fuzz")
      outcomes.add("read")
    except ValueError as error:
      assert "\n" not in str(error)
      outcomes.add("refused")
  assert outcomes == {"read", "refused"}
