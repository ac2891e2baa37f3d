import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.pytorch import torch
from support.quick_jit import quick_jit
from support.random_variables import random_variables

from pst_jax.layers import BatchNorm

SHAPE = (6, 4, 5, 3)


def maps(seed):
  return np.random.default_rng(seed).normal(1.0, 2.0, SHAPE).astype(np.float32)


def torch_twin(variables, **options):
  twin = torch.nn.BatchNorm2d(SHAPE[-1], **options)
  names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
  values = variables["params"] | variables["batch_stats"]
  twin.load_state_dict({name: torch.tensor(values[names[name]]) for name in names}, strict=False)
  return twin


def nchw(x):
  return torch.tensor(np.moveaxis(x, -1, 1))


def train_step(layer, variables, x):
  out, updates = quick_jit(
    lambda variables, x: layer.apply(variables, x, train=True, mutable="batch_stats")
  )(variables, x)
  return out, variables | updates


def assert_equals_twin(variables, twin):
  for name in ("mean", "var"):
    actual = variables["batch_stats"][name]
    np.testing.assert_allclose(actual, twin.get_buffer(f"running_{name}"), rtol=1e-5)


@pytest.mark.parametrize(
  ("fields", "options"),
  [({}, {}), ({"epsilon": 1e-3, "momentum": 0.97}, {"eps": 1e-3, "momentum": 0.03})],
)
def test_two_training_steps_and_evaluation_are_pytorchs(fields, options):
  layer = BatchNorm(**fields)
  variables = random_variables(layer, maps(0), False)
  twin = torch_twin(variables, **options)
  for step in range(2):
    out, variables = train_step(layer, variables, maps(step))
    expected = twin(nchw(maps(step))).detach().numpy()
    np.testing.assert_allclose(np.moveaxis(out, -1, 1), expected, atol=1e-5)
  assert_equals_twin(variables, twin)
  out = quick_jit(lambda variables, x: layer.apply(variables, x, train=False))(variables, maps(2))
  expected = twin.eval()(nchw(maps(2))).detach().numpy()
  np.testing.assert_allclose(np.moveaxis(out, -1, 1), expected, atol=1e-5)


def test_training_gradients_are_pytorchs():
  layer, probe = BatchNorm(), maps(1)
  variables = random_variables(layer, maps(0), False)

  def loss(params, x):
    variables_now = variables | {"params": params}
    return jnp.vdot(probe, layer.apply(variables_now, x, train=True, mutable="batch_stats")[0])

  params, x = quick_jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], maps(0))
  twin, inputs = torch_twin(variables), nchw(maps(0)).requires_grad_()
  (twin(inputs) * nchw(probe)).sum().backward()
  np.testing.assert_allclose(np.moveaxis(x, -1, 1), inputs.grad, atol=1e-5)
  np.testing.assert_allclose(params["scale"], twin.weight.grad, rtol=1e-4)
  np.testing.assert_allclose(params["bias"], twin.bias.grad, rtol=1e-4)


def test_groups_are_normalised_on_their_own():
  layer = BatchNorm(group_size=2)
  variables = random_variables(layer, maps(0), False)
  out, _ = train_step(layer, variables, maps(0))
  expected = [torch_twin(variables)(nchw(maps(0)[i : i + 2])).detach() for i in (0, 2, 4)]
  np.testing.assert_allclose(np.moveaxis(out, -1, 1), np.concatenate(expected), atol=1e-5)


def test_groups_move_the_running_statistics_by_their_mean():
  layer = BatchNorm(group_size=2)
  variables = random_variables(layer, maps(0), False)
  _, after = train_step(layer, variables, maps(0))
  twins = [torch_twin(variables) for _ in range(3)]
  for i, twin in enumerate(twins):
    twin(nchw(maps(0)[2 * i : 2 * i + 2]))
  for name in ("mean", "var"):
    expected = np.mean([twin.get_buffer(f"running_{name}").numpy() for twin in twins], axis=0)
    np.testing.assert_allclose(after["batch_stats"][name], expected, rtol=1e-5)


def test_one_group_is_the_whole_batch():
  variables = random_variables(BatchNorm(), maps(0), False)
  whole = train_step(BatchNorm(), variables, maps(0))
  group = train_step(BatchNorm(group_size=6), variables, maps(0))
  jax.tree.map(np.testing.assert_array_equal, group, whole)


@pytest.mark.parametrize("group_size", [4, 12])
def test_a_group_that_does_not_divide_the_batch_is_refused(group_size):
  layer = BatchNorm(group_size=group_size)
  variables = random_variables(layer, maps(0), False)
  with pytest.raises(ValueError, match=rf"groups of {group_size} examples .* batch of 6: choose"):
    train_step(layer, variables, maps(0))


def test_evaluation_takes_any_batch_whatever_the_group():
  layer = BatchNorm(group_size=4)
  variables = random_variables(layer, maps(0), False)
  out = jax.eval_shape(lambda x: layer.apply(variables, x, train=False), maps(0))
  assert out.shape == SHAPE


def test_initialisation_leaves_the_running_statistics_at_zero_and_one():
  init = quick_jit(BatchNorm().init, static_argnums=2)
  statistics = init(jax.random.key(0), maps(0), True)["batch_stats"]
  assert not np.any(statistics["mean"])
  assert np.all(statistics["var"] == 1)


def test_statistics_of_bfloat16_maps_are_float32():
  layer = BatchNorm(dtype=jnp.bfloat16)
  variables = random_variables(layer, maps(0), False)
  out, after = train_step(layer, variables, maps(0).astype(jnp.bfloat16))
  assert out.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(np.float32)}
