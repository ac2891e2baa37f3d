"""Gates that are set by least squares."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.small_weights import small_images, small_weights

from research import gate

DIM = 3


def rows_of(weights, count=400):
  """Coarse and fine attention, and what the gate of these weights makes of the two."""
  rng = np.random.default_rng(0)
  coarse, fine = rng.normal(size=(2, count, DIM))
  inputs = np.concatenate([coarse, fine, np.ones((count, 1))], axis=1)
  share = 1 / (1 + np.exp(-inputs @ weights))
  return coarse, fine, share * fine + (1 - share) * coarse


def test_a_gate_that_exists_is_found(monkeypatch):
  monkeypatch.setattr(gate, "RIDGE", 1e-9)
  weights = np.random.default_rng(1).normal(size=(2 * DIM + 1, DIM))
  found = gate.fit(*rows_of(weights), start=np.zeros_like(weights))
  np.testing.assert_allclose(found, weights, atol=1e-3)


@pytest.mark.parametrize(("wanted", "share"), [("fine", 1.0), ("coarse", 0.0)])
def test_the_nearer_of_the_two_gets_the_gate(wanted, share):
  coarse, fine, _ = rows_of(np.zeros((2 * DIM + 1, DIM)))
  goal = {"fine": fine, "coarse": coarse}[wanted]
  found = gate.fit(coarse, fine, goal, start=np.zeros((2 * DIM + 1, DIM)))
  inputs = np.concatenate([coarse, fine, np.ones((len(coarse), 1))], axis=1)
  assert np.abs(1 / (1 + np.exp(-inputs @ found)) - share).mean() < 0.1


def test_gates_of_a_network_come_nearer_and_nothing_else_moves(monkeypatch):
  monkeypatch.setattr(gate, "ROWS", 500)
  weights = small_weights()
  images = [small_images(4, 48).astype(np.float32) / 255]
  network = weights.network(top_k=2)
  variables, reports = gate.calibrate(network, weights.variables, images)
  assert len(reports) == 1
  assert all(after < before for before, after in reports.values())
  old, new = flatten_dict(weights.variables), flatten_dict(variables)
  moved = {path[-1] for path in old if not np.array_equal(old[path], new[path])}
  assert moved == {"gate_kernel", "gate_bias"}
