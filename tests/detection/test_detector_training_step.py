"""One training step of the detectors against the authors', run by them in float64."""

import functools

import jax
import numpy as np
import pytest
from support import golden_values
from support.detectors import detector_state_dict, golden_targets
from support.quick_jit import quick_jit

import pst_jax
from pst_jax import detection

HEIGHT, WIDTH = 128, 96
# Relative, of losses, norms of gradients and statistics. Where a sum cancels, rounding is absolute.
TOLERANCE = {"float32": (2e-3, 2e-4), "float64": (1e-5, 1e-6)}
# One network in float32 shows that rounding is all that float32 adds.
CASES = [
  ("yolo11n-pst", "float32"),
  *(
    pytest.param(name, "float64", marks=pytest.mark.slow)
    for name in ("yolo11n-pst", "r18-pst", "yolo11n")
  ),
  *(
    pytest.param(name, "float32", marks=[pytest.mark.slow, pytest.mark.exhaustive])
    for name in ("r18-pst", "yolo11n")
  ),
]


def golden(name):
  prefix = f"{name}/"
  arrays = golden_values.arrays("detector_train_step")
  return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def section(name, section):
  prefix = f"{section}/"
  return {k[len(prefix) :]: v for k, v in golden(name).items() if k.startswith(prefix)}


@functools.cache
def training_step(name, dtype):
  """Losses, maps, gradients and buffers; the last two under PyTorch's names."""
  images = golden_values.network_input(f"det.train.{name}", (4, 3, HEIGHT, WIDTH)).astype(dtype)
  targets = golden_targets(golden(name), "", 4, HEIGHT, WIDTH, dtype=dtype)
  state_dict = detector_state_dict(name)
  with jax.enable_x64(dtype == "float64"):
    model = pst_jax.create_model(name, dtype=dtype)
    variables = pst_jax.convert.from_torch(name, state_dict)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)

    def loss_of(params):
      given = variables | {"params": params}
      maps, updates = model.apply(given, images, train=True, mutable="batch_stats")
      losses = detection.loss(maps, targets)
      return losses.total, (losses, maps, updates["batch_stats"])

    step = quick_jit(jax.grad(loss_of, has_aux=True))
    gradients, (losses, maps, statistics) = jax.tree.map(np.asarray, step(variables["params"]))
    to_torch = functools.partial(pst_jax.convert.to_torch, name)
    return (
      losses,
      maps,
      to_torch({"params": gradients, "batch_stats": statistics}),
      to_torch({"params": variables["params"], "batch_stats": statistics}),
    )


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_losses_are_the_authors(name, dtype):
  losses, maps, _, _ = training_step(name, dtype)
  assert losses.total.dtype == dtype
  for i, level in enumerate(maps):
    expected = golden_values.nhwc(golden(name)[f"pred{i}"])
    assert golden_values.difference(level, expected) <= 1e-3 if dtype == "float32" else 1e-6
  rtol = TOLERANCE[dtype][0]
  items = [losses.box, losses.classes, losses.dfl]
  np.testing.assert_allclose(items, golden(name)["loss_items"], rtol=rtol)
  np.testing.assert_allclose(losses.total, golden(name)["loss_sum"], rtol=rtol)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_gradient_has_the_authors_norm(name, dtype):
  gradients, expected = training_step(name, dtype)[2], section(name, "gradnorm")
  learned = {entry for entry, norm in expected.items() if not np.isnan(norm)}
  assert all("gate_conv1d" in entry or ".dfl." in entry for entry in expected.keys() - learned)
  rtol, atol = TOLERANCE[dtype]
  for entry in learned:
    norm = np.linalg.norm(gradients[entry].astype(np.float64))
    np.testing.assert_allclose(norm, expected[entry], rtol=rtol, atol=atol, err_msg=entry)
  assert not any(np.any(gradients[e]) for e in expected.keys() - learned if "gate" in e)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_gradients_are_the_authors(name, dtype):
  gradients, expected = training_step(name, dtype)[2], section(name, "grad")
  assert expected
  for entry, gradient in expected.items():
    # Compared by norm: where no anchor of a level is in the foreground some are 0 throughout.
    tolerance = 0.05 if dtype == "float32" else 1e-4
    distance = np.linalg.norm(gradients[entry] - gradient)
    assert distance <= tolerance * np.linalg.norm(gradient), entry


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_running_statistics_move_as_the_authors(name, dtype):
  buffers, expected = training_step(name, dtype)[3], section(name, "buffer")
  assert expected
  rtol, atol = TOLERANCE[dtype]
  for entry, statistic in expected.items():
    if not entry.endswith("num_batches_tracked"):
      np.testing.assert_allclose(buffers[entry], statistic, rtol, atol, err_msg=entry)
