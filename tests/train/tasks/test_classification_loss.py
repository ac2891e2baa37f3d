"""The losses against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.pytorch import torch

from train.tasks.classification.loss import (
  Targets,
  binary_cross_entropy,
  correct,
  cross_entropy,
  unmixed,
)


def numbers():
  rng = np.random.default_rng(0)
  return rng.normal(size=(16, 7)) * 5, rng.integers(7, size=16), rng.integers(7, size=16)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_loss_is_the_one_of_pytorch(smoothing):
  logits, labels, _ = numbers()
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing, reduction="none"
  )
  with jax.enable_x64(True):
    found = cross_entropy(jnp.asarray(logits), unmixed(labels), smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_labels_is_pytorchs_for_their_probabilities(smoothing):
  logits, labels, others = numbers()
  share = np.random.default_rng(1).uniform(size=16)
  probabilities = share[:, None] * np.eye(7)[labels] + (1 - share[:, None]) * np.eye(7)[others]
  expected = torch.nn.functional.cross_entropy(
    torch.tensor(logits), torch.tensor(probabilities), label_smoothing=smoothing, reduction="none"
  )
  with jax.enable_x64(True):
    targets = Targets(jnp.asarray(labels), jnp.asarray(others), jnp.asarray(share))
    found = cross_entropy(jnp.asarray(logits), targets, smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_binary_loss_is_pytorchs_for_every_class_alone(smoothing):
  logits, labels, others = numbers()
  share = np.random.default_rng(1).uniform(size=16)
  wanted = share[:, None] * np.eye(7)[labels] + (1 - share[:, None]) * np.eye(7)[others]
  expected = torch.nn.functional.binary_cross_entropy_with_logits(
    torch.tensor(logits), torch.tensor((1 - smoothing) * wanted + smoothing / 7), reduction="none"
  ).mean(dim=1)
  with jax.enable_x64(True):
    targets = Targets(jnp.asarray(labels), jnp.asarray(others), jnp.asarray(share))
    found = binary_cross_entropy(jnp.asarray(logits), targets, smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_loss_is_finite_for_extreme_logits():
  logits = jnp.array([[1e30, -1e30], [-1e30, 1e30]])
  found = cross_entropy(logits, unmixed(np.array([0, 1])), 0.0)
  assert found.tolist() == [0.0, 0.0]


def test_an_image_that_is_one_alone_is_right_or_wrong():
  logits, labels, _ = numbers()
  found = correct(jnp.asarray(logits), unmixed(jnp.asarray(labels)))
  np.testing.assert_array_equal(found, logits.argmax(axis=1) == labels)


def test_a_mixed_image_is_right_to_the_share_of_the_class_that_is_told():
  logits = jnp.eye(4)[jnp.array([0, 1, 2, 3])]
  label, other = jnp.array([0, 0, 0, 3]), jnp.array([1, 1, 1, 3])
  found = correct(logits, Targets(label, other, jnp.full(4, 0.75)))
  np.testing.assert_array_equal(found, [0.75, 0.25, 0, 1])
