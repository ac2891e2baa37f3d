"""What holds for the detectors, on narrow ones and small images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support import tiny_weights
from support.detectors import box_targets
from support.every_network import DETECTORS, pictures, shapes
from support.golden_values import difference
from support.quick_jit import quick_jit

import pst_jax
from pst_jax import detection, models

NARROW = {"num_classes": 5, "width": 0.125}
FAMILIES = ["yolo11n-pst", "r18-pst", "yolo11n"]
# The step of the others is compared with the authors' in tests/detection.
TRAINED = [
  FAMILIES[0],
  *(pytest.param(each, marks=pytest.mark.exhaustive) for each in FAMILIES[1:]),
]


@functools.cache
def small_detector(name):
  """Model, variables and images that the tests below share."""
  model = pst_jax.create_model(name, **NARROW)
  # Norm scales below 1: with larger ones the many residuals grow beyond what attention can take.
  variables = pst_jax.convert.from_torch(model, tiny_weights.state_dict(name, **NARROW))
  return model, variables, pictures(64, 64)


@functools.cache
def training_step(name, **options):
  """(variables, maps, updates, gradients by name) of one step on the loss of detection."""
  model, variables, images = small_detector(name)
  model = model.clone(top_k=2, **options)

  def loss_of(params):
    given = variables | {"params": params}
    maps, updates = model.apply(given, images, train=True, mutable="batch_stats")
    return detection.loss(maps, box_targets(4, 64)).total, (maps, updates)

  step = quick_jit(jax.grad(loss_of, has_aux=True))
  gradients, (maps, updates) = jax.tree.map(np.asarray, step(variables["params"]))
  return variables, maps, updates, flatten_dict(gradients, sep="/")


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_learns_from_the_loss(name):
  gradients = training_step(name)[3]
  assert [n for n, g in gradients.items() if not np.all(np.isfinite(g))] == []
  # The sides of a level learn only where one of its anchors answers for a box.
  silent = [n for n, g in gradients.items() if not np.any(g)]
  assert [n for n in silent if not n.startswith("head/box")] == []
  assert len([n for n in silent if n.startswith("head/box")]) < 3 * 8


@pytest.mark.parametrize("name", TRAINED)
def test_training_moves_all_running_statistics_by_three_hundredths(name):
  variables, _, updates, _ = training_step(name)
  before = flatten_dict(variables["batch_stats"], sep="/")
  after = flatten_dict(updates["batch_stats"], sep="/")
  assert [n for n in before if np.all(before[n] == after[n])] == []
  model = pst_jax.create_model(name)
  assert (model.epsilon, model.momentum) == (1e-3, 0.97)


@pytest.mark.parametrize("name", TRAINED[:2])
def test_remat_changes_neither_maps_nor_gradients(name):
  _, maps, _, gradients = training_step(name, remat=True)
  _, expected_maps, _, expected = training_step(name)
  for level, other in zip(maps, expected_maps, strict=True):
    assert difference(level, other) <= 1e-3
  for parameter, gradient in gradients.items():
    scale = np.linalg.norm(expected[parameter])
    assert np.linalg.norm(gradient - expected[parameter]) <= 1e-2 * scale + 1e-4, parameter


@pytest.mark.parametrize("name", DETECTORS)
def test_maps_have_64_channels_and_the_classes_at_three_strides(name):
  model = pst_jax.create_model(name, **NARROW)
  maps, _ = shapes(model, pictures(96, 64))
  assert [level.shape for level in maps] == [(4, 12, 8, 69), (4, 6, 4, 69), (4, 3, 2, 69)]
  assert models.task_of(name) == "detection"


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_tells_80_classes_apart_unless_told(name):
  assert pst_jax.create_model(name).num_classes == 80


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(65, 64), (64, 48), (0, 32)])
def test_sides_that_are_no_multiples_of_32_are_refused(name, size):
  with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} pixels .* multiples of 32"):
    shapes(pst_jax.create_model(name, **NARROW), pictures(*size))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_detector_has_neither_stem_nor_dropout(name):
  for option in ("stem", "dropout", "stochastic_depth"):
    with pytest.raises(ValueError, match=rf"option '{option}' of model {name} is unknown"):
      pst_jax.create_model(name, **{option: 0.5})


@pytest.mark.parametrize("name", FAMILIES)
def test_top_k_changes_no_variable(name):
  def variables(top_k):
    return shapes(pst_jax.create_model(name, top_k=top_k, **NARROW), pictures(64, 64))[1]

  assert variables(0) == variables(4)


@pytest.mark.parametrize("implementation", ["dot_product", "blocked", "pallas"])
@pytest.mark.parametrize("name", ["yolo11n-pst", "yolo11n"])
def test_every_coarse_implementation_gives_the_same_maps(name, implementation):
  model, variables, images = small_detector(name)
  expected = quick_jit(model.apply)(variables, images)
  maps = quick_jit(model.clone(coarse_implementation=implementation).apply)(variables, images)
  for level, other in zip(maps, expected, strict=True):
    assert difference(level, other) <= 1e-3


def test_maps_of_a_bfloat16_detector_are_float32_and_near_those_of_float32():
  model, variables, images = small_detector("yolo11n-pst")
  maps = quick_jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
  expected = quick_jit(model.apply)(variables, images)
  for level, other in zip(maps, expected, strict=True):
    assert level.dtype == np.float32
    assert np.abs(level - other).mean() <= 0.05 * np.std(other)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_detector_gives_the_same_maps(name):
  model, variables, images = small_detector(name)
  model = model.clone(top_k=2)
  folded, folded_variables = pst_jax.fold_batch_norm(model, variables)
  expected = quick_jit(model.apply)(variables, images)
  for level, other in zip(quick_jit(folded.apply)(folded_variables, images), expected, strict=True):
    assert difference(level, other) <= 1e-3


def test_both_modules_of_a_detector_open_tokens_of_their_own():
  model, variables, images = small_detector("yolo11n-pst")
  model = model.clone(top_k=2, selection="random")
  rngs = {"selection": jax.random.key(0)}
  _, sown = model.apply(variables, images, rngs=rngs, mutable=["intermediates"])
  found = flatten_dict(sown["intermediates"])
  selected = {path[1]: v[0] for path, v in found.items() if path[-1] == "selected"}
  assert selected["fuse4"].max() < 4
  assert 4 <= selected["fuse3"].max() < 16


def test_the_features_of_a_detector_are_what_its_head_takes():
  model = pst_jax.create_model("yolo11n-pst")
  maps, _ = shapes(model, pictures(64, 64), method="features")
  assert {name: each.shape[1:] for name, each in maps.items()} == {
    "p3": (8, 8, 64),
    "p4": (4, 4, 128),
    "p5": (2, 2, 256),
  }
