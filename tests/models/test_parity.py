"""The networks against what the authors' implementation and torchvision computed."""

import functools

import jax
import numpy as np
import pytest
from support import golden_values
from support.quick_jit import quick_jit

import pst_jax

# One float32 sum in another order moves PST's map behind 101 layers by this much: the golden one is
# 1.1e-4 away from the same network in float64.
PST_TOLERANCE = {"r101-cls-pst": 3e-4}
DEEP = ("r50-cls-pst", "r101-cls-pst", "yolo11s-cls-pst", "yolo11m-cls-pst")
PAPER = list(dict.fromkeys(key.split("/")[0] for key in golden_values.arrays("classifiers")))
TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101"]


def slow_if(names, condition):
  return [pytest.param(n, marks=pytest.mark.slow) if condition(n) else n for n in names]


def golden_variables(name):
  if name in TORCHVISION:
    return pst_jax.convert.from_torch(name, golden_values.state_dict(f"torchvision-{name}"))
  scale = (0.7, 1.1) if name.startswith("yolo11") else (0.5, 0.9)
  return pst_jax.convert.from_torch(name, golden_values.state_dict(name, scale))


def logits_and_maps(model, variables, images, jit=quick_jit):
  """The logits, and the maps of `features`; without running the backbone twice."""

  def forward(variables, images):
    return model.apply(variables, images), model.apply(variables, images, method="features")

  return jit(forward)(variables, images)


@pytest.mark.parametrize("name", slow_if(PAPER, lambda name: name in DEEP))
def test_the_papers_networks_coarse_and_fine(name):
  golden = golden_values.arrays("classifiers")
  variables = golden_variables(name)
  images = golden_values.network_input(name, (2, 3, 224, 224))
  for k in (0, 8):
    model = pst_jax.create_model(name, top_k=k)
    logits, maps = logits_and_maps(model, variables, images)
    assert golden_values.difference(logits, golden[f"{name}/logits_k{k}"]) <= 1e-4
    expected = golden_values.nhwc(golden[f"{name}/pst_out_k{k}"])
    assert golden_values.difference(maps["pst"], expected) <= PST_TOLERANCE.get(name, 1e-4)


@pytest.mark.parametrize("name", slow_if(TORCHVISION, lambda name: name != "resnet18"))
def test_torchvisions_networks(name):
  golden = golden_values.arrays("torchvision")
  images = golden_values.network_input(f"tv.{name}", (2, 3, 224, 224))
  model = pst_jax.create_model(name)
  logits, maps = logits_and_maps(model, golden_variables(name), images)
  assert golden_values.difference(logits, golden[f"{name}/logits"]) <= 1e-4
  for stage in (3, 4):
    means = maps[f"stage{stage}"].mean(axis=(1, 2))
    assert golden_values.difference(means, golden[f"{name}/layer{stage}_mean"]) <= 1e-4


def test_the_recommended_compiler_options_keep_the_values():
  name, options = "r18-cls-pst", pst_jax.compiler_options()
  images = golden_values.network_input(name, (2, 3, 224, 224))
  jit = functools.partial(jax.jit, compiler_options=options)
  model = pst_jax.create_model(name, top_k=8)
  logits, _ = logits_and_maps(model, golden_variables(name), images, jit)
  expected = golden_values.arrays("classifiers")[f"{name}/logits_k8"]
  assert golden_values.difference(logits, expected) <= 1e-4


# One training step of r18-cls-pst. Inputs of ReLU that are 0 within 1e-5 are on either side by
# rounding, which moves single gradients of the backbone by 1 % (and norms hardly): float64 decides.

PRECISIONS = ["float32", pytest.param("float64", marks=pytest.mark.slow)]


@functools.cache
def training_step(dtype):
  """Loss, logits, gradients and buffers; the last two under PyTorch's names."""
  name = "r18-cls-pst"
  golden = golden_values.arrays("train_step")
  variables = jax.tree.map(lambda leaf: leaf.astype(dtype), golden_variables(name))
  images = golden_values.network_input("train.r18-cls-pst", (4, 3, 96, 96)).astype(dtype)

  def loss(params):
    model = pst_jax.create_model(name, dtype=dtype)
    logits, updates = model.apply(
      variables | {"params": params}, images, train=True, mutable="batch_stats"
    )
    chosen = jax.nn.log_softmax(logits)[np.arange(4), golden["labels"]]
    return -chosen.mean(), (logits, updates["batch_stats"])

  with jax.enable_x64(dtype == "float64"):
    step = quick_jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits, statistics)), gradients = step(variables["params"])
    to_torch = functools.partial(pst_jax.convert.to_torch, name)
    return (
      float(value),
      np.asarray(logits),
      to_torch({"params": gradients, "batch_stats": statistics}),
      to_torch({"params": variables["params"], "batch_stats": statistics}),
    )


def golden_section(section):
  golden = golden_values.arrays("train_step")
  prefix = f"{section}/"
  return {key[len(prefix) :]: value for key, value in golden.items() if key.startswith(prefix)}


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_training_step_has_the_authors_loss_and_logits(dtype):
  loss, logits, _, _ = training_step(dtype)
  golden = golden_values.arrays("train_step")
  assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)
  assert golden_values.difference(logits, golden["logits"]) <= 1e-4


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_training_step_has_the_authors_gradient_norms(dtype):
  gradients, expected = training_step(dtype)[2], golden_section("gradnorm")
  learned = {name for name, norm in expected.items() if not np.isnan(norm)}
  assert expected.keys() - learned == {
    f"model.5.attnlayer_0.attn.gate_conv1d.{entry}" for entry in ("weight", "bias")
  }
  for name in learned:
    # A bias that a later BatchNorm takes away has gradient 0: rounding leaves about 1e-9 of it.
    norm = np.linalg.norm(gradients[name])
    np.testing.assert_allclose(norm, expected[name], rtol=2e-3, atol=1e-6, err_msg=name)
  for name in expected.keys() - learned:
    assert not np.any(gradients[name])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_training_step_has_the_authors_gradients(dtype):
  gradients, expected = training_step(dtype)[2], golden_section("grad")
  assert expected
  for name, gradient in expected.items():
    in_backbone = int(name.split(".")[1]) < 5
    tolerance = 0.05 if in_backbone and dtype == "float32" else 1e-3
    assert golden_values.difference(gradients[name], gradient) <= tolerance, name


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_training_step_moves_the_statistics_as_the_authors(dtype):
  buffers, expected = training_step(dtype)[3], golden_section("buffer")
  assert expected
  for name, statistic in expected.items():
    np.testing.assert_allclose(buffers[name], statistic, rtol=2e-4, atol=2e-5, err_msg=name)
