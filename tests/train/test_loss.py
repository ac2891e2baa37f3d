"""Cross-entropy against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from train.loss import Targets, cross_entropy, mixed_cross_entropy


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
    found = cross_entropy(jnp.asarray(logits), labels, smoothing)
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
    found = mixed_cross_entropy(jnp.asarray(logits), targets, smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_loss_is_finite_for_extreme_logits():
  logits = jnp.array([[1e30, -1e30], [-1e30, 1e30]])
  found = cross_entropy(logits, np.array([0, 1]), 0.0)
  assert found.tolist() == [0.0, 0.0]
