"""Genuine .pt files, written by PyTorch, read without it."""

import datetime
import enum
import json
import pathlib
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
from support import hostile_files as made
from support.pytorch import torch

from pst_jax.convert.formats.torch_file import read_torch_file, to_float32, write_torch_file

DTYPES = (
  *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
  *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
  *("bool", "complex64", "complex128"),
)


def bits(array):
  return np.ascontiguousarray(array).tobytes()


def tensor_bits(tensor):
  return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def save(tmp_path, value, **options):
  path = tmp_path / "file.pt"
  torch.save(value, path, **options)
  return path


NEW_FORMAT = pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])


@NEW_FORMAT
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_read_bit_by_bit(tmp_path, dtype, new_format):
  value = torch.tensor([[0, 1, 1], [1, 0, 1]]).mul(3).to(getattr(torch, dtype))
  path = save(tmp_path, {"w": value}, _use_new_zipfile_serialization=new_format)
  array = read_torch_file(path).state_dict["w"]
  assert (array.dtype.name, array.shape, bits(array)) == (dtype, (2, 3), tensor_bits(value))


@NEW_FORMAT
def test_views_keep_their_offset_and_strides(tmp_path, new_format):
  base = torch.arange(24.0).reshape(4, 6)
  views = {
    "transposed": base.T,
    "part": base[1:3, 2:5],
    "every_second": base[:, ::2],
    "repeated": base[0, 0].expand(3, 2),
    "scalar": base[2, 3],
    "empty": base[:0],
  }
  path = save(tmp_path, views, _use_new_zipfile_serialization=new_format)
  state_dict = read_torch_file(path).state_dict
  assert {k: v.tolist() for k, v in state_dict.items()} == {k: v.tolist() for k, v in views.items()}


def test_entries_that_share_a_storage_share_memory(tmp_path):
  weight = torch.ones(5)
  state_dict = read_torch_file(save(tmp_path, {"a": weight, "b": weight[1:]})).state_dict
  state_dict["a"][1] = 7
  assert state_dict["b"][0] == 7


def test_arrays_can_be_written_to(tmp_path):
  assert read_torch_file(save(tmp_path, {"a": torch.ones(5)})).state_dict["a"].flags.writeable


def test_parameters_and_buffers_with_attributes(tmp_path):
  parameter = torch.nn.Parameter(torch.ones(2))
  parameter.tag = "mine"
  path = save(tmp_path, {"a": parameter, "b": torch.nn.Buffer(torch.ones(3))})
  assert [v.shape for v in read_torch_file(path).state_dict.values()] == [(2,), (3,)]


def test_big_endian_files_are_swapped(tmp_path):
  path = tmp_path / "big.pt"
  records = {"data/0": struct.pack(">6f", *range(6)), "byteorder": b"big"}
  path.write_bytes(made.archive({"w": made.tensor()}, records))
  assert read_torch_file(path).state_dict["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_that_torch_can_write(tmp_path, protocol):
  state_dict = torch.nn.BatchNorm2d(3).state_dict()
  path = save(tmp_path, state_dict, pickle_protocol=protocol)
  assert list(read_torch_file(path).state_dict) == list(state_dict)


def test_order_is_that_of_the_file(tmp_path):
  names = ["z", "a", "m", "b"]
  assert (
    list(read_torch_file(save(tmp_path, dict.fromkeys(names, torch.ones(1)))).state_dict) == names
  )


INTERPOLATION = enum.Enum(
  "InterpolationMode", {"BILINEAR": "bilinear"}, module="torchvision.transforms.functional"
)


@pytest.fixture
def foreign_package(monkeypatch):
  """Classes of a package that is gone when the file is read, as the authors' package is."""

  class ConvNorm(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
      self.bn = torch.nn.BatchNorm2d(4)
      self.act = torch.nn.SiLU()

  class Network(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.head = torch.nn.Parameter(torch.randn(2))
      self.model = torch.nn.Sequential(ConvNorm(), torch.nn.Linear(4, 2))
      self.register_buffer("anchors", torch.ones(3), persistent=False)
      self.register_buffer("stride", torch.ones(2))
      self.register_buffer("nothing", None)
      self.register_parameter("no_bias", None)
      self.names = {0: "cat", 1: "dog"}
      self.save = {4, 6}
      self.transforms = [INTERPOLATION.BILINEAR]

  class Settings(types.SimpleNamespace):
    pass

  module = types.ModuleType("foreign.nn.tasks")
  for cls in (ConvNorm, Network, Settings):
    cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
    setattr(module, cls.__name__, cls)
  enums = types.ModuleType(INTERPOLATION.__module__)
  enums.InterpolationMode = INTERPOLATION
  with monkeypatch.context() as installed:
    for name in ("foreign", "foreign.nn", "torchvision", "torchvision.transforms"):
      installed.setitem(sys.modules, name, types.ModuleType(name))
    installed.setitem(sys.modules, module.__name__, module)
    installed.setitem(sys.modules, enums.__name__, enums)
    yield types.SimpleNamespace(Network=Network, Settings=Settings, uninstall=installed.undo)


@pytest.fixture
def checkpoint(tmp_path, foreign_package):
  """(path, raw network, averaged network) of a training checkpoint in Ultralytics' form."""
  raw, average = foreign_package.Network().half(), foreign_package.Network().half()
  settings = foreign_package.Settings(epochs=600, save_dir=pathlib.PurePosixPath("runs/x"))
  value = {
    "epoch": 7,
    "best_fitness": np.float64(0.5),
    "model": raw,
    "ema": average,
    "updates": 12,
    "optimizer": torch.optim.SGD(raw.parameters(), lr=0.1).state_dict(),
    "train_args": settings,
    "date": datetime.datetime(2026, 1, 1),
    "version": "8.3.105",
  }
  path = save(tmp_path, value)
  foreign_package.uninstall()
  assert "foreign" not in sys.modules
  return path, raw, average


def assert_same_weights(state_dict, network):
  expected = {name: tensor_bits(value) for name, value in network.state_dict().items()}
  assert list(state_dict) == list(expected)
  assert {name: bits(array) for name, array in state_dict.items()} == expected


def test_pickled_model_gives_its_state_dict_in_order(checkpoint):
  path, _, average = checkpoint
  assert_same_weights(read_torch_file(path).state_dict, average)


def test_raw_model_on_request(checkpoint):
  path, raw, _ = checkpoint
  file = read_torch_file(path, ema=False)
  assert_same_weights(file.state_dict, raw)
  assert (file.info["weights"], file.info["key"]) == ("model", "model")


def test_checkpoint_facts_are_reported(checkpoint):
  info = read_torch_file(checkpoint[0]).info
  assert info == {
    "form": "zip",
    "weights": "ema",
    "key": "ema",
    "model_class": "foreign.nn.tasks.Network",
    "prefix": "",
    "class_names": ["cat", "dog"],
    "metadata": None,
    "checkpoint": {
      "epoch": 7,
      "updates": 12,
      "train_args": {"epochs": 600},
      "version": "8.3.105",
    },
  }


def test_checkpoint_whose_average_is_none_gives_the_model(tmp_path):
  path = save(tmp_path, {"model": torch.nn.Linear(2, 3), "ema": None})
  assert read_torch_file(path).info["weights"] == "model"


def test_asking_for_an_average_that_is_not_there(tmp_path):
  path = save(tmp_path, {"model": torch.nn.Linear(2, 3), "ema": None})
  with pytest.raises(ValueError, match=r"no moving average.*\(model, ema\): take its model"):
    read_torch_file(path, ema=True)
  path = save(tmp_path, {"w": torch.ones(1)})
  with pytest.raises(ValueError, match="one set of weights"):
    read_torch_file(path, ema=True)


def test_checkpoint_of_the_average_alone(tmp_path):
  path = save(tmp_path, {"model": None, "ema": torch.nn.Linear(2, 3)})
  with pytest.raises(ValueError, match=r"no model .*take its ema"):
    read_torch_file(path, ema=False)


def test_pickled_model_in_the_old_format(tmp_path):
  network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
  path = save(tmp_path, network, _use_new_zipfile_serialization=False)
  assert_same_weights(read_torch_file(path).state_dict, network)


def test_module_that_appears_twice_has_both_names(tmp_path):
  shared = torch.nn.Linear(2, 2)
  network = torch.nn.Sequential(shared, shared)
  assert_same_weights(read_torch_file(save(tmp_path, network)).state_dict, network)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state", "model_state_dict"])
def test_wrapped_state_dicts(tmp_path, key):
  network = torch.nn.Linear(2, 3)
  path = save(tmp_path, {"epoch": 3, "loss": torch.ones(()), key: network.state_dict()})
  assert_same_weights(read_torch_file(path).state_dict, network)


def test_average_of_timm_is_preferred(tmp_path):
  value = {"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": {"w": torch.ones(1)}}
  assert read_torch_file(save(tmp_path, value)).state_dict["w"] == 1


@pytest.mark.parametrize(
  "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers_are_cut_off(tmp_path, prefix):
  file = read_torch_file(save(tmp_path, {f"{prefix}a": torch.ones(1), f"{prefix}b": torch.ones(1)}))
  assert (list(file.state_dict), file.info["prefix"]) == (["a", "b"], prefix)


def test_prefix_of_some_entries_is_kept(tmp_path):
  value = {"module.a": torch.ones(1), "b": torch.ones(1)}
  assert list(read_torch_file(save(tmp_path, value)).state_dict) == ["module.a", "b"]


def test_file_packed_again_without_compression_is_read(tmp_path):
  path = save(tmp_path, {"w": torch.arange(3)})
  with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
    new.mkdir("file")
    for name in old.namelist():
      new.writestr(name, old.read(name))
  assert read_torch_file(tmp_path / "new.pt").state_dict["w"].tolist() == [0, 1, 2]


def test_to_float32_turns_floats_alone():
  state_dict = {
    "half": np.array([1.5], np.float16),
    "bfloat16": np.array([2.5], ml_dtypes.bfloat16),
    "double": np.array([3.5]),
    "count": np.array(4),
  }
  turned = to_float32(state_dict)
  assert [v.dtype.name for v in turned.values()] == ["float32"] * 3 + ["int64"]
  assert [v.item() for v in turned.values()] == [1.5, 2.5, 3.5, 4]


# --- writing ---


def test_written_file_loads_strictly_in_torch(tmp_path):
  network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
  arrays = {name: value.numpy() for name, value in network.state_dict().items()}
  write_torch_file(tmp_path / "out.pt", arrays, {"model": "x"})
  loaded = torch.load(tmp_path / "out.pt", weights_only=True)
  network.load_state_dict(loaded, strict=True)
  assert list(loaded) == list(arrays)
  assert json.loads(loaded.pst_jax) == {"model": "x"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "int64", "bool"])
def test_written_file_is_read_back_bit_by_bit(tmp_path, dtype):
  square = np.arange(6).reshape(2, 3).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
  arrays = {"b": square, "a": square.T, "scalar": square[0, 0].reshape(())}
  write_torch_file(tmp_path / "out.pth", arrays, {"step": 3, "mean": [0.5]})
  file = read_torch_file(tmp_path / "out.pth")
  assert file.info["metadata"] == {"step": 3, "mean": [0.5]}
  expected = [(k, v.dtype, v.shape, bits(v)) for k, v in arrays.items()]
  assert [(k, v.dtype, v.shape, bits(v)) for k, v in file.state_dict.items()] == expected


def test_writing_without_torch_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ValueError, match="pip install 'torch"):
    write_torch_file(tmp_path / "out.pt", {}, {})


def test_existing_file_is_kept_unless_forced(tmp_path):
  path = tmp_path / "out.pt"
  write_torch_file(path, {"a": np.zeros(1)}, {})
  with pytest.raises(ValueError, match="exists and is kept"):
    write_torch_file(path, {"b": np.zeros(1)}, {})
  assert list(read_torch_file(path).state_dict) == ["a"]
  write_torch_file(path, {"b": np.zeros(1)}, {}, force=True)
  assert list(read_torch_file(path).state_dict) == ["b"]
