"""What holds for every network of the registry, on narrow ones and small images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support.every_network import (
  EVERY_NETWORK,
  EVERY_NETWORK_TRAINED,
  FAMILIES,
  NARROW,
  SMALL,
  pictures,
  shapes,
)
from support.golden_values import difference
from support.quick_jit import quick_jit
from support.random_variables import random_variables

import pst_jax
from pst_jax import ops
from pst_jax.layers.dropping import drop


def has_pst(name):
  return "pst" in name


# Forward and backward


@functools.cache
def training_step(name, **options):
  """One step on odd-sized images: (variables, logits, updates, gradients by name)."""
  model = pst_jax.create_model(name, top_k=2 * has_pst(name), **SMALL, **options)
  images = pictures(17, 13)
  variables, probe = random_variables(model, images), pictures(5, 1)[..., 0, 0]

  def loss(params):
    logits, updates = model.apply(
      variables | {"params": params}, images, train=True, mutable="batch_stats"
    )
    return jnp.vdot(probe, logits) + jnp.square(logits).sum(), (logits, updates)

  step = quick_jit(jax.grad(loss, has_aux=True))
  # Numpy's functions on arrays of JAX would compile one program for each shape.
  gradients, (logits, updates) = jax.tree.map(np.asarray, step(variables["params"]))
  return variables, logits, updates, flatten_dict(gradients, sep="/")


@pytest.mark.parametrize("name", EVERY_NETWORK_TRAINED)
def test_training_gives_finite_logits_in_float32(name):
  _, logits, _, _ = training_step(name)
  assert (logits.shape, logits.dtype) == ((4, 5), np.float32)
  assert np.all(np.isfinite(logits))


@pytest.mark.parametrize("name", EVERY_NETWORK_TRAINED)
def test_every_parameter_gets_a_finite_gradient(name):
  _, _, _, gradients = training_step(name)
  assert [n for n, g in gradients.items() if not np.all(np.isfinite(g)) or not np.any(g)] == []


@pytest.mark.parametrize("name", EVERY_NETWORK_TRAINED)
def test_training_moves_all_running_statistics(name):
  variables, _, updates, _ = training_step(name)
  before = flatten_dict(variables["batch_stats"], sep="/")
  after = flatten_dict(updates["batch_stats"], sep="/")
  assert before.keys() == after.keys()
  assert [name for name in before if np.all(before[name] == after[name])] == []


WITH_PST = ["resnet18_pst", pytest.param("yolo11n-cls-pst", marks=pytest.mark.slow)]


@pytest.mark.parametrize("policy", ["nothing", "convolutions"])
@pytest.mark.parametrize("name", WITH_PST)
def test_remat_changes_neither_logits_nor_gradients(name, policy):
  _, logits, _, gradients = training_step(name, remat=True, remat_policy=policy)
  _, expected_logits, _, expected = training_step(name)
  assert difference(logits, expected_logits) <= 1e-4
  for parameter, gradient in gradients.items():
    scale = np.linalg.norm(expected[parameter])
    assert np.linalg.norm(gradient - expected[parameter]) <= 1e-3 * scale + 1e-5, parameter


@pytest.mark.parametrize(("name", "stages"), [("resnet18_pst", 4), ("yolo11n-cls-pst", 3)])
def test_remat_recomputes_every_stage(name, stages):
  def recomputed(remat):
    model = pst_jax.create_model(name, remat=remat, **SMALL)
    variables = shapes(model, pictures(32, 32))[1]
    jaxpr = jax.make_jaxpr(model.apply)(variables, pictures(32, 32))
    return sum("remat" in eqn.primitive.name for eqn in jaxpr.eqns)

  assert (recomputed(False), recomputed(True)) == (0, stages)


def test_remat_that_keeps_convolutions_repeats_none_of_them_but_all_of_batch_norm():
  def counts(**options):
    model = pst_jax.create_model("resnet18_pst", **SMALL, **options)
    variables = shapes(model, pictures(32, 32))[1]

    def loss(params, batch_stats):
      given = {"params": params, "batch_stats": batch_stats}
      logits, _ = model.apply(given, pictures(32, 32), True, mutable=["batch_stats"])
      return jnp.sum(logits)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(variables["params"], variables["batch_stats"]).jaxpr
    return [occurrences(jaxpr, primitive) for primitive in ("conv_general_dilated", "rsqrt")]

  plain = counts()
  nothing, convolutions = (
    counts(remat=True, remat_policy=each) for each in ("nothing", "convolutions")
  )
  assert nothing[0] > plain[0]
  assert convolutions[0] == plain[0]
  assert convolutions[1] == nothing[1] > plain[1]


def occurrences(jaxpr, primitive):
  inner = [each for eqn in jaxpr.eqns for each in jaxprs_in_params(eqn.params)]
  return sum(eqn.primitive.name == primitive for eqn in jaxpr.eqns) + sum(
    occurrences(getattr(each, "jaxpr", each), primitive) for each in inner
  )


# Images and maps


@pytest.mark.parametrize("name", EVERY_NETWORK)
def test_every_map_is_half_as_large_as_the_one_before_rounded_up(name):
  maps, _ = shapes(pst_jax.create_model(name, **NARROW), pictures(225, 193), method="features")
  sizes = {stage: maps[stage].shape[1:3] for stage in maps}
  expected = {"stage1": (57, 49), "stage2": (29, 25), "stage3": (15, 13), "stage4": (8, 7)}
  assert sizes == expected | ({"pst": (15, 13)} if has_pst(name) else {})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_small_stem_keeps_four_times_the_resolution(name):
  maps, _ = shapes(pst_jax.create_model(name, **SMALL), pictures(32, 32), method="features")
  assert [maps[f"stage{i}"].shape[1] for i in (1, 2, 3, 4)] == [32, 16, 8, 4]


@pytest.mark.parametrize(
  ("name", "channels"),
  [
    ("r18-cls-pst", [256, 512, 1024, 2048, 256]),
    ("resnet18_pst", [64, 128, 256, 512, 256]),
    ("resnet50", [256, 512, 1024, 2048]),
    pytest.param("resnet101_pst", [256, 512, 1024, 2048, 512], marks=pytest.mark.slow),
  ],
)
def test_features_have_the_channels_of_the_layer_table(name, channels):
  maps, _ = shapes(pst_jax.create_model(name), pictures(64, 64), method="features")
  names = ["stage1", "stage2", "stage3", "stage4"] + ["pst"] * has_pst(name)
  assert [maps[stage].shape[-1] for stage in names] == channels


@pytest.mark.parametrize(
  ("width", "stage1", "stage4", "inside_pst", "head"),
  [(0.25, 16, 128, 32, 320), (0.3, 16, 152, 32, 384), (0.8, 48, 408, 96, 1024)],
)
def test_width_scales_all_channels_and_pst_by_whole_heads(width, stage1, stage4, inside_pst, head):
  model = pst_jax.create_model("resnet18_pst", width=width)
  params = shapes(model, pictures(32, 32))[1]["params"]
  stages = params["backbone"]
  assert stages["stage1"]["block0"]["cv1"]["conv"]["kernel"].shape[-1] == stage1
  assert stages["stage4"]["block1"]["cv2"]["conv"]["kernel"].shape[-1] == stage4
  assert params["neck"]["pst"]["cv1"]["conv"]["kernel"].shape[-1] == inside_pst
  assert params["head"]["linear"]["kernel"].shape == (head, 1000)


def test_odd_images_through_the_whole_network():
  model = pst_jax.create_model("r18-cls-pst", top_k=8, **NARROW)
  images = pictures(225, 193, batch=1)
  logits = quick_jit(model.apply)(random_variables(model, images), images)
  assert logits.shape == (1, 5)
  assert np.all(np.isfinite(logits))


# Options


@functools.cache
def small_network(name):
  """Model, variables and images that the tests below share."""
  model, images = pst_jax.create_model(name, **SMALL), pictures(32, 32)
  return model, random_variables(model, images), images


def logits_of(model, variables, images, **arguments):
  return quick_jit(lambda v, x: model.apply(v, x, **arguments))(variables, images)


@pytest.mark.parametrize("name", WITH_PST)
def test_bfloat16_logits_are_float32_and_near_those_of_float32(name):
  model, variables, images = small_network(name)
  logits = logits_of(model.clone(dtype=jnp.bfloat16), variables, images)
  expected = np.asarray(logits_of(model, variables, images))
  assert logits.dtype == np.float32
  assert np.abs(logits - expected).mean() <= 0.03 * expected.std()


def test_parameters_and_statistics_of_a_bfloat16_network_are_float32():
  model = pst_jax.create_model("resnet18_pst", dtype=jnp.bfloat16, **SMALL)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes(model, pictures(32, 32))[1])} == {
    np.dtype(np.float32)
  }


@pytest.mark.parametrize("name", ["resnet18_pst", "yolo11n-cls-pst"])
def test_a_bfloat16_network_convolves_and_attends_in_bfloat16(name):
  model, variables, images = small_network(name)
  model = model.clone(dtype=jnp.bfloat16, top_k=2)
  program = jax.jit(model.apply).lower(variables, images).as_text()
  products = [line for line in program.splitlines() if "stablehlo.convolution" in line]
  products += [line for line in program.splitlines() if "stablehlo.dot_general" in line]
  in_float32 = [line for line in products if "xbf16>" not in line]
  # The scores of the selection and the last layer.
  assert len(products) > 20
  assert len(in_float32) == 2


def test_float64_is_double_throughout():
  model, variables, images = small_network("resnet18_pst")
  images = images[:1, :16, :16]
  expected = np.asarray(logits_of(model, variables, images))
  with jax.enable_x64(True):
    model = model.clone(dtype=jnp.float64)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), (variables, images))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(model, images)[1])} == {
      np.dtype(np.float64)
    }
    logits = np.asarray(logits_of(model, *wide))
  assert logits.dtype == np.float64
  assert difference(logits, expected) <= 1e-4


def test_two_calls_give_equal_logits():
  model, variables, images = small_network("resnet18_pst")
  run = quick_jit(model.clone(top_k=4).apply)
  np.testing.assert_array_equal(run(variables, images), run(variables, images))


def test_dropout_is_decided_by_its_key_and_only_in_training():
  model, variables, images = small_network("resnet18_pst")
  model = model.clone(dropout=0.5)

  @quick_jit
  def train(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return model.apply(variables, images, train=True, mutable="batch_stats", rngs=rngs)[0]

  assert np.array_equal(train(0), train(0))
  assert not np.array_equal(train(0), train(1))
  without = model.clone(dropout=0.0)
  np.testing.assert_array_equal(
    logits_of(model, variables, images), logits_of(without, variables, images)
  )


def trained(model, variables, images, **options):
  rngs = {"dropout": jax.random.key(7)}
  run = quick_jit(functools.partial(model.apply, train=True, mutable="batch_stats", **options))
  return np.asarray(run(variables, images, rngs=rngs)[0])


def test_stochastic_depth_leaves_blocks_out_of_examples_in_training_alone():
  model, variables, images = small_network("resnet18")
  deep = model.clone(stochastic_depth=0.9)
  assert not np.array_equal(trained(deep, variables, images), trained(model, variables, images))
  assert np.array_equal(trained(deep, variables, images), trained(deep, variables, images))
  np.testing.assert_array_equal(
    logits_of(deep, variables, images), logits_of(model, variables, images)
  )


def test_what_is_left_out_of_an_example_depends_on_its_position_alone():
  x, key = np.ones((6, 2, 2, 1), np.float32), jax.random.key(3)
  whole = drop(x, 0.5, key, whole=True)
  assert {float(each) for each in whole[:, 0, 0, 0]} == {0.0, 2.0}
  assert (np.ptp(whole, axis=(1, 2, 3)) == 0).all()
  np.testing.assert_array_equal(drop(x[2:4], 0.5, key, np.array([2, 3]), whole=True), whole[2:4])


@pytest.mark.parametrize("name", FAMILIES)
def test_ones_own_selection_is_called_with_top_k_and_the_key(name):
  calls = []

  def record(scores, k, key):
    calls.append((scores.shape, k, key is not None))
    return ops.select_top_k(scores, k)

  model, variables, images = small_network(name)
  model = model.clone(top_k=3, selection=record)
  jax.eval_shape(model.apply, variables, images)
  jax.eval_shape(
    lambda v, x: model.apply(v, x, rngs={"selection": jax.random.key(0)}), variables, images
  )
  # With keys the rule sees one image at a time.
  assert {(shape[0], shape[-1], k, has_key) for shape, k, has_key in calls} == {
    (4, 16, 3, False),
    (1, 16, 3, True),
  }


@pytest.mark.parametrize(
  "selection",
  ["gumbel", "pst_jax.ops:select_gumbel", ops.select_gumbel],
  ids=["named", "imported", "given"],
)
def test_a_rule_is_named_or_imported_or_given(selection):
  model = pst_jax.create_model("resnet18_pst", top_k=2, selection=selection, **SMALL)
  _, variables, images = small_network("resnet18_pst")
  rngs = {"selection": jax.random.key(0)}
  logits = logits_of(model, variables, images, rngs=rngs)
  expected = logits_of(model.clone(selection="gumbel"), variables, images, rngs=rngs)
  np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_random_rule_does_the_same_for_a_batch_in_parts_as_for_the_whole(name):
  model, variables, images = small_network(name)
  model = model.clone(top_k=2, selection="random")

  @quick_jit
  def opened(images, positions):
    arguments = {"positions": positions, "rngs": {"selection": jax.random.key(0)}}
    _, sown = model.apply(variables, images, mutable=["intermediates"], **arguments)
    (selected,) = [v for k, v in flatten_dict(sown).items() if "selected" in k]
    return jnp.sort(selected[0], axis=-1)

  positions = np.arange(4)
  whole = opened(images, positions)
  parts = [opened(images[i : i + 2], positions[i : i + 2]) for i in (0, 2)]
  np.testing.assert_array_equal(whole, np.concatenate(parts))
  assert not np.array_equal(whole[0], whole[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_top_k_changes_no_variable_of_a_network(name):
  def variables(top_k):
    return shapes(pst_jax.create_model(name, top_k=top_k, **SMALL), pictures(32, 32))[1]

  assert variables(0) == variables(8)


# Elsewhere


@pytest.mark.parametrize("name", ["resnet18_pst", "yolo11n-cls-pst"])
def test_inference_on_a_sharded_batch_moves_no_example_between_devices(name):
  model, variables, images = small_network(name)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  everywhere, by_example = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
  infer = quick_jit(
    model.clone(top_k=8).apply, in_shardings=(everywhere, by_example), out_shardings=by_example
  )
  batch = jax.ShapeDtypeStruct((16, *images.shape[1:]), images.dtype)
  program = infer.lower(variables, batch).compile().as_text()
  moves = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
  assert [line for line in program.splitlines() if any(f" {move}" in line for move in moves)] == []


@functools.cache
def nnx_network():
  model, _, images = small_network("resnet18_pst")

  def create():
    return nnx.split(nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(images))

  return quick_jit(create)()


def linen_variables(state):
  return {
    "params": nnx.to_pure_dict(nnx.filter_state(state, nnx.Param)),
    "batch_stats": nnx.to_pure_dict(nnx.filter_state(state, nnx.BatchStat)),
  }


def test_a_network_wrapped_for_nnx_is_the_same_network():
  definition, state = nnx_network()
  model, _, images = small_network("resnet18_pst")
  logits = quick_jit(lambda state, x: nnx.merge(definition, state)(x))(state, images)
  expected = logits_of(model, linen_variables(state), images)
  np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_a_network_wrapped_for_nnx_keeps_its_running_statistics():
  definition, state = nnx_network()
  model, _, images = small_network("resnet18_pst")

  @quick_jit
  def train(state):
    wrapped = nnx.merge(definition, state)
    wrapped(images, train=True, mutable=["batch_stats"])
    return nnx.state(wrapped)

  _, expected = quick_jit(
    lambda variables: model.apply(variables, images, train=True, mutable="batch_stats")
  )(linen_variables(state))
  after = linen_variables(train(state))["batch_stats"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after, expected["batch_stats"]
  )
