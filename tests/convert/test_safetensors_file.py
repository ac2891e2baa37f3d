import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from support.pytorch import torch

from pst_jax.convert.formats.safetensors_file import read_safetensors, write_safetensors
from pst_jax.errors import UserError

METADATA = {"model": "r18-cls-pst", "top_k": 0, "mean": [0.485], "classes": ["cat", "Käse"]}


def facts(state_dict):
  return [(k, v.dtype, v.shape, np.ascontiguousarray(v).tobytes()) for k, v in state_dict.items()]


DTYPES = (
  *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
  *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_comes_back_bit_by_bit(tmp_path, dtype):
  dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
  arrays = {"w": np.arange(6).reshape(2, 3).astype(dtype), "scalar": np.ones((), dtype)}
  write_safetensors(tmp_path / "w.safetensors", arrays, {})
  assert facts(read_safetensors(tmp_path / "w.safetensors").state_dict) == facts(arrays)


def test_order_of_the_entries_is_kept(tmp_path):
  arrays = {"z": np.zeros(1, np.float16), "a": np.zeros(1), "m": np.array(3), "b": np.zeros(1)}
  write_safetensors(tmp_path / "w", arrays, {})
  assert list(read_safetensors(tmp_path / "w").state_dict) == ["z", "a", "m", "b"]


def test_metadata_comes_back(tmp_path):
  write_safetensors(tmp_path / "w", {"a": np.zeros(1)}, METADATA)
  assert read_safetensors(tmp_path / "w").metadata == METADATA


@pytest.mark.parametrize("order", ["transposed", "every_second", "big_endian"])
def test_memory_order_does_not_matter(tmp_path, order):
  array = np.arange(12.0).reshape(3, 4)
  array = {"transposed": array.T, "every_second": array[:, ::2], "big_endian": array.astype(">f8")}[
    order
  ]
  write_safetensors(tmp_path / "w", {"a": array}, {})
  assert read_safetensors(tmp_path / "w").state_dict["a"].tolist() == array.tolist()


def test_torch_reads_what_is_written(tmp_path):
  array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
  write_safetensors(tmp_path / "w", {"a": array}, METADATA)
  reader = pytest.importorskip("safetensors.torch", exc_type=ImportError)
  loaded = reader.load_file(tmp_path / "w")["a"]
  assert loaded.dtype == torch.bfloat16
  assert loaded.tolist() == array.tolist()


def test_file_of_others_is_read_with_its_own_metadata(tmp_path):
  safetensors.numpy.save_file({"b": np.zeros(2), "a": np.ones(3)}, tmp_path / "w", {"format": "np"})
  file = read_safetensors(tmp_path / "w")
  assert {k: v.tolist() for k, v in file.state_dict.items()} == {"b": [0, 0], "a": [1, 1, 1]}
  assert file.metadata == {"format": "np"}


def test_file_of_others_without_metadata(tmp_path):
  safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "w")
  assert read_safetensors(tmp_path / "w").metadata == {}


def test_arrays_can_be_written_to(tmp_path):
  write_safetensors(tmp_path / "w", {"a": np.zeros(2)}, {})
  assert read_safetensors(tmp_path / "w").state_dict["a"].flags.writeable


def test_existing_file_is_kept_unless_forced(tmp_path):
  write_safetensors(tmp_path / "w", {"a": np.zeros(2)}, {})
  with pytest.raises(ValueError, match="exists and is kept"):
    write_safetensors(tmp_path / "w", {"b": np.zeros(2)}, {})
  assert list(read_safetensors(tmp_path / "w").state_dict) == ["a"]
  write_safetensors(tmp_path / "w", {"b": np.zeros(2)}, {}, force=True)
  assert list(read_safetensors(tmp_path / "w").state_dict) == ["b"]


def test_type_that_the_format_lacks(tmp_path):
  with pytest.raises(ValueError, match="complex128"):
    write_safetensors(tmp_path / "w", {"a": np.zeros(2, np.complex128)}, {})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "content", [b"hello, these are words", b"\xff" * 40, b"\x02" + bytes(7) + b"[]"]
)
def test_something_else(tmp_path, content):
  (tmp_path / "w").write_bytes(content)
  with pytest.raises(ValueError, match="no safetensors file, or it is damaged"):
    read_safetensors(tmp_path / "w")


def test_cut_short(tmp_path):
  write_safetensors(tmp_path / "w", {"a": np.zeros(100)}, {})
  content = (tmp_path / "w").read_bytes()
  for end in (7, 20, len(content) // 2, len(content) - 1):
    (tmp_path / "w").write_bytes(content[:end])
    with pytest.raises(ValueError, match="cut short"):
      read_safetensors(tmp_path / "w")


@pytest.mark.parametrize(
  "key, text", [("pst_jax.order", '["b"]'), ("pst_jax.order", "{"), ("pst_jax", "[")]
)
def test_damaged_metadata(tmp_path, key, text):
  safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "w", {key: text})
  with pytest.raises(ValueError, match="get it again"):
    read_safetensors(tmp_path / "w")


@pytest.mark.parametrize("order", ["[1]", "[null]", "[NaN]", '[["a"]]', '["a", "a"]', '{"a": 1}'])
@pytest.mark.parametrize("name", ["a", "1", "None", "nan", "['a']"])
def test_an_order_that_is_no_list_of_the_names(tmp_path, name, order):
  safetensors.numpy.save_file({name: np.zeros(2)}, tmp_path / "w", {"pst_jax.order": order})
  with pytest.raises(UserError, match="list of entry names does not fit"):
    read_safetensors(tmp_path / "w")


@pytest.mark.parametrize("shape", [[1] * 65, [0, 2**62, 2**62], [0, 2**64 - 1]])
def test_a_shape_that_no_array_has(tmp_path, shape):
  size = int(0 not in shape)
  header = json.dumps({"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, size]}}).encode()
  (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
  with pytest.raises(UserError, match="get it again"):
    read_safetensors(tmp_path / "w")


def test_empty_missing_and_directory(tmp_path):
  (tmp_path / "empty").touch()
  with pytest.raises(ValueError, match="empty"):
    read_safetensors(tmp_path / "empty")
  with pytest.raises(ValueError, match="a directory"):
    read_safetensors(tmp_path)
  with pytest.raises(FileNotFoundError, match="no such file"):
    read_safetensors(tmp_path / "nothing")
