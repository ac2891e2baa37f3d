import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import golden_values
from support.every_network import EVERY_NETWORK
from support.random_variables import random_variables

import pst_jax
from pst_jax import convert

MANIFESTS = {
  **{f"{name}-cls-pst": f"{name}-cls-pst" for name in ("r18", "r50", "r101")},
  **{f"yolo11{size}-cls-pst": f"yolo11{size}-cls-pst" for size in "nsm"},
  **{f"resnet{depth}": f"torchvision-resnet{depth}" for depth in (18, 34, 50, 101)},
}
SMALL = {"num_classes": 5, "width": 0.125, "stem": "small"}
COUNTERS = "num_batches_tracked"


def random_state_dict(manifest):
  rng = np.random.default_rng(0)
  return {
    name: np.array(0, np.int64) if name.endswith(COUNTERS) else rng.random(shape, np.float32)
    for name, shape in golden_values.manifest(manifest)
  }


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_state_dict_comes_back_bit_equal_in_the_manifests_order(name):
  state_dict = random_state_dict(MANIFESTS[name])
  back = convert.to_torch(name, convert.from_torch(name, state_dict))
  assert list(back) == list(state_dict)
  for entry, value in state_dict.items():
    assert back[entry].dtype == value.dtype, entry
    assert np.array_equal(back[entry], value), entry


@pytest.mark.parametrize("name", EVERY_NETWORK)
def test_flax_variables_come_back_bit_equal(name):
  model = pst_jax.create_model(name, **SMALL)
  variables = random_variables(model, np.zeros((1, 32, 32, 3), np.float32))
  back = convert.from_torch(model, convert.to_torch(model, variables))
  jax.tree.map(np.testing.assert_array_equal, back, variables)


# A small network whose state dict the tests below spoil.


@functools.cache
def model():
  return pst_jax.create_model("resnet18_pst", **SMALL)


@functools.cache
def variables():
  return random_variables(model(), np.zeros((1, 32, 32, 3), np.float32))


def state_dict():
  return convert.to_torch(model(), variables())


def test_counters_come_back_as_the_number_given():
  back = convert.to_torch(model(), variables(), num_batches_tracked=1234)
  counters = {name: value for name, value in back.items() if name.endswith(COUNTERS)}
  assert len(counters) == sum(name.endswith("running_var") for name in back) > 20
  for counter in counters.values():
    assert (counter, counter.dtype, counter.shape) == (1234, np.int64, ())


def test_a_state_dict_may_come_without_any_counter():
  without = {name: value for name, value in state_dict().items() if not name.endswith(COUNTERS)}
  jax.tree.map(np.testing.assert_array_equal, convert.from_torch(model(), without), variables())


def test_some_counters_alone_are_refused():
  given = state_dict()
  del given[f"layer1.0.bn1.{COUNTERS}"]
  with pytest.raises(ValueError, match=rf"1 missing: layer1\.0\.bn1\.{COUNTERS}$"):
    convert.from_torch(model(), given)


def test_types_are_kept():
  given = {name: value.astype(np.float16) for name, value in state_dict().items()}
  result = convert.from_torch(model(), given)
  assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {np.dtype(np.float16)}


def test_jax_arrays_are_taken():
  on_device = jax.tree.map(jnp.asarray, variables())
  back = convert.to_torch(model(), on_device)
  for name, value in state_dict().items():
    assert type(back[name]) is np.ndarray
    assert np.array_equal(back[name], value)


def test_frozen_variables_are_taken():
  back = convert.to_torch(model(), flax.core.freeze(variables()))
  assert list(back) == list(state_dict())


def test_number_of_classes_is_read_off_the_state_dict():
  given = random_state_dict("torchvision-resnet18")
  given["fc.weight"], given["fc.bias"] = given["fc.weight"][:7], given["fc.bias"][:7]
  result = convert.from_torch("resnet18", given)
  assert result["params"]["head"]["linear"]["bias"].shape == (7,)
  assert convert.to_torch("resnet18", result)["fc.weight"].shape == (7, 512)


def test_missing_left_over_and_misshapen_entries_are_all_named():
  given = state_dict()
  del given["conv1.weight"], given["pst.cv1.bn.weight"]
  given["extra.weight"] = np.zeros(3)
  given["head.linear.bias"] = np.zeros(9)
  with pytest.raises(ValueError, match="the state dict does not fit the network") as error:
    convert.from_torch(model(), given)
  assert "2 missing: conv1.weight, pst.cv1.bn.weight" in str(error.value)
  assert "1 left over: extra.weight" in str(error.value)
  assert "1 of another shape: head.linear.bias (9,) instead of (5,)" in str(error.value)


def test_missing_left_over_and_misshapen_variables_are_all_named():
  given = jax.tree.map(lambda leaf: leaf, variables())
  del given["params"]["backbone"]["stem"]["conv"]
  given["params"]["extra"] = np.zeros(3)
  given["batch_stats"]["head"]["conv"]["bn"]["mean"] = np.zeros(9)
  with pytest.raises(ValueError, match="the Flax variables do not fit the network") as error:
    convert.to_torch(model(), given)
  assert "1 missing: params/backbone/stem/conv/kernel" in str(error.value)
  assert "1 left over: params/extra" in str(error.value)
  assert "batch_stats/head/conv/bn/mean (9,) instead of (160,)" in str(error.value)


def test_a_long_list_of_names_is_cut_with_their_number():
  with pytest.raises(ValueError, match=r"\d+ missing: conv1\.weight, .* and \d+ more$") as error:
    convert.from_torch(model(), {"head.linear.bias": np.zeros(5)})
  assert len(str(error.value)) < 1000


@pytest.mark.parametrize("given", [{}, {"params": {}}, {"batch_stats": {}}])
def test_a_tree_without_parameters_is_refused(given):
  with pytest.raises(ValueError, match="missing: params/"):
    convert.to_torch("resnet18", given)


def test_an_unknown_network_is_refused():
  with pytest.raises(ValueError, match="'resnet19' is unknown"):
    convert.from_torch("resnet19", {})


# Single modules


@pytest.mark.parametrize(
  ("kind", "case"), [("psattn", "psattn"), ("psattn_block", "psattn_block"), ("pst", "pst")]
)
def test_an_incomplete_module_is_refused_with_the_entry(kind, case):
  given = golden_values.state_dict(case)
  missing = next(name for name in given if name.endswith("pe.conv.weight"))
  del given[missing]
  with pytest.raises(ValueError, match=rf"1 missing: {missing}$"):
    convert.module_from_torch(kind, given)


def test_the_state_dict_of_another_module_is_refused():
  with pytest.raises(ValueError, match=r"is no pst: its entry 'cv1\.conv\.weight' is missing"):
    convert.module_from_torch("pst", golden_values.state_dict("psattn"))


def test_a_pst_with_another_number_of_blocks_is_refused():
  with pytest.raises(ValueError, match=r"left over: attnlayer_1\.attn"):
    convert.module_from_torch("pst", golden_values.state_dict("pst"), num_blocks=1)


def test_an_unknown_kind_of_module_lists_the_kinds():
  with pytest.raises(ValueError, match=r"'neck' is unknown.* psattn, psattn_block, pst"):
    convert.module_from_torch("neck", {})


def test_a_module_of_any_width_is_read():
  # int(224 * (61 / 224)) is 60: the width must not pass through a rounded ratio.
  given = {}
  for name, shape in golden_values.manifest("psattn_block"):
    widened = {64: 224, 128: 61 if name.startswith("mlp") else 448}
    is_gate = "gate" in name
    given[name] = np.zeros(shape if is_gate else [widened.get(n, n) for n in shape])
  result = convert.module_from_torch("psattn_block", given)
  assert result["params"]["mlp0"]["conv"]["kernel"].shape == (1, 1, 224, 61)
