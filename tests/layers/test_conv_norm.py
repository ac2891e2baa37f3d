import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.pytorch import torch
from support.quick_jit import quick_jit
from support.random_variables import random_variables

from pst_jax.layers import ConvNorm
from pst_jax.layers.conv_norm import Conv

CHANNELS, FEATURES = 6, 8
# kernel, strides, depthwise, size of the map
CASES = [
  (1, 1, False, (5, 6)),
  (1, 2, False, (5, 6)),
  (3, 1, False, (5, 6)),
  (3, 2, False, (5, 6)),
  (7, 2, False, (9, 8)),
  (7, 1, True, (5, 6)),
  (7, 1, True, (2, 1)),
]


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_convolution(x, kernel, strides, depthwise):
  return torch.nn.functional.conv2d(
    x, kernel, stride=strides, padding=kernel.shape[-1] // 2, groups=CHANNELS if depthwise else 1
  )


@pytest.mark.parametrize(("kernel", "strides", "depthwise", "size"), CASES)
def test_convolution_and_its_gradients_are_pytorchs(kernel, strides, depthwise, size):
  layer = Conv(CHANNELS if depthwise else FEATURES, kernel, strides, depthwise)
  x = normal(0, 2, *size, CHANNELS)
  variables = random_variables(layer, x)
  out_shape = jax.eval_shape(layer.apply, variables, x).shape
  probe = normal(1, *out_shape)

  def loss(variables, x):
    out = layer.apply(variables, x)
    return jnp.vdot(probe, out), out

  (_, out), (gradient, x_gradient) = quick_jit(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  )(variables, x)

  torch_x = torch.tensor(np.moveaxis(x, -1, 1)).requires_grad_()
  weight = torch.tensor(variables["params"]["kernel"].transpose(3, 2, 0, 1)).requires_grad_()
  expected = torch_convolution(torch_x, weight, strides, depthwise)
  (expected * torch.tensor(np.moveaxis(probe, -1, 1))).sum().backward()
  np.testing.assert_allclose(np.moveaxis(out, -1, 1), expected.detach(), atol=1e-4)
  np.testing.assert_allclose(np.moveaxis(x_gradient, -1, 1), torch_x.grad, atol=1e-4)
  np.testing.assert_allclose(
    gradient["params"]["kernel"].transpose(3, 2, 0, 1), weight.grad, atol=1e-4
  )


@pytest.mark.parametrize("train", [False, True])
def test_normalised_convolution_ends_in_its_activation(train):
  x = normal(0, 2, 5, 6, CHANNELS)
  plain = ConvNorm(FEATURES, 3, activation=None)
  variables = random_variables(plain, x, False)

  def out(layer):
    return quick_jit(lambda v: layer.apply(v, x, train, mutable="batch_stats")[0])(variables)

  np.testing.assert_allclose(
    out(ConvNorm(FEATURES, 3)), quick_jit(jax.nn.silu)(out(plain)), atol=1e-5
  )


def test_affine_of_a_1x1_layer_is_its_evaluation():
  x = normal(0, 2, 5, 6, CHANNELS)
  layer = ConvNorm(FEATURES, activation=None)
  variables = random_variables(layer, x, False)

  @quick_jit
  def both(variables):
    def call(layer):
      return layer(x, False), layer.affine()

    return layer.apply(variables, method=call)

  out, (kernel, bias) = both(variables)
  np.testing.assert_allclose(x @ np.asarray(kernel) + bias, out, atol=1e-5)


def test_initial_kernels_are_uniform_up_to_one_over_the_root_of_fan_in():
  variables = quick_jit(Conv(256, 3).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))
  kernel = variables["params"]["kernel"]
  bound = 1 / np.sqrt(3 * 3 * 64)
  assert bound * 0.99 < np.abs(kernel).max() <= bound
  np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.01)
