"""The PyTorch twins against the Flax networks, where no golden values exist."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support import golden_values
from support.fill import fill, image
from support.quick_jit import quick_jit

import pst_jax
import pst_jax.torch
from pst_jax import detection
from pst_jax.models import task_of

SMALL = {"num_classes": 5, "width": 0.25, "stem": "small"}
DETECTOR = {"num_classes": 5, "width": 0.25}


def twins(name, **options):
  """The same network in both frameworks, with the same weights: (twin, Flax module, variables)."""
  twin = pst_jax.torch.create_model(name, **options)
  values = {
    entry: value.numpy() if ".dfl." in entry else fill(entry, tuple(value.shape))
    for entry, value in twin.state_dict().items()
  }
  twin.load_state_dict({entry: torch.from_numpy(value) for entry, value in values.items()})
  model = pst_jax.create_model(name, **options)
  return twin, model, pst_jax.convert.from_torch(model, values)


@pytest.mark.parametrize("name", pst_jax.list_models())
def test_flax_weights_are_the_twins_entries_in_order(name):
  options = SMALL if task_of(name) == "classification" else DETECTOR
  with torch.device("meta"):
    entries = pst_jax.torch.create_model(name, **options).state_dict()
  model = pst_jax.create_model(name, **options)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  converted = pst_jax.convert.to_torch(model, variables)
  assert [(entry, value.shape) for entry, value in converted.items()] == [
    (entry, tuple(value.shape)) for entry, value in entries.items()
  ]


@pytest.mark.parametrize(
  ("name", "top_k", "options"),
  [
    ("r18-cls-pst", 0, SMALL),
    ("r18-cls-pst", 2, SMALL | {"width": 0.3, "stem": "imagenet"}),
    ("resnet18", 0, SMALL),
    ("resnet18_pst", 3, SMALL),
    ("resnet26_pst", 3, SMALL),
    ("yolo11n-cls-pst", 2, SMALL),
    ("yolo11m-cls-pst", 2, SMALL | {"width": 0.3, "stem": "imagenet"}),
  ],
)
def test_logits_agree_on_odd_images(name, top_k, options):
  twin, model, variables = twins(name, top_k=top_k, **options)
  images = image("odd", (2, 3, 65, 49))
  with torch.no_grad():
    expected = twin.eval()(torch.from_numpy(images))
  logits = quick_jit(model.apply)(variables, golden_values.nhwc(images))
  assert golden_values.difference(logits, expected) <= 1e-4


@functools.cache
def fine_training_step():
  twin, model, variables = twins("resnet18_pst", top_k=3, **SMALL | {"width": 0.125})
  images, labels = image("fine training", (4, 3, 40, 24)), np.arange(4)
  logits = twin.train()(torch.from_numpy(images))
  torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()

  @quick_jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def step(params):
    logits, updates = model.apply(
      {**variables, "params": params}, golden_values.nhwc(images), train=True, mutable="batch_stats"
    )
    chosen = jax.nn.log_softmax(logits)[jnp.arange(4), labels]
    return -chosen.mean(), (logits, updates["batch_stats"])

  (_, (flax_logits, statistics)), gradients = step(variables["params"])
  to_torch = functools.partial(pst_jax.convert.to_torch, model)
  buffers = to_torch({"params": variables["params"], "batch_stats": statistics})
  gradients = to_torch({"params": gradients, "batch_stats": statistics})
  return twin, logits.detach(), flax_logits, buffers, gradients


def test_fine_training_has_the_same_logits():
  _, expected, logits, _, _ = fine_training_step()
  assert golden_values.difference(logits, expected) <= 1e-3


def test_fine_training_has_the_same_gradients():
  twin, _, _, _, gradients = fine_training_step()
  for name, parameter in twin.named_parameters():
    expected, scale = parameter.grad.numpy(), np.linalg.norm(parameter.grad)
    np.testing.assert_allclose(
      np.linalg.norm(gradients[name] - expected), 0, atol=5e-3 * scale + 1e-5, err_msg=name
    )


def test_fine_training_moves_the_statistics_of_kv_twice():
  twin, _, _, buffers, _ = fine_training_step()
  for name, expected in twin.named_buffers():
    if not name.endswith("num_batches_tracked"):
      np.testing.assert_allclose(buffers[name], expected, rtol=2e-3, atol=2e-4, err_msg=name)
  assert twin.get_buffer("pst.attnlayer_0.attn.kv.bn.num_batches_tracked") == 2


@pytest.mark.parametrize(
  ("name", "top_k"), [("yolo11n-pst", 3), ("r18-pst", 0), ("yolo11n", 0), ("yolo11m", 0)]
)
def test_maps_and_boxes_of_detectors_agree(name, top_k):
  twin, model, variables = twins(name, top_k=top_k, **DETECTOR)
  images = image("detect", (2, 3, 64, 96))
  with torch.no_grad():
    expected = twin.eval()(torch.from_numpy(images))
    decoded = twin.decode(expected).numpy()
  maps = quick_jit(model.apply)(variables, golden_values.nhwc(images))
  for level, other in zip(maps, expected, strict=True):
    assert golden_values.difference(level, golden_values.nhwc(other.numpy())) <= 5e-4
  boxes, scores = detection.decode(maps)
  centre, half = decoded[:, :2], decoded[:, 2:4] / 2
  corners = np.concatenate([centre - half, centre + half], axis=1)
  assert golden_values.difference(boxes, corners.swapaxes(1, 2)) <= 5e-4
  assert golden_values.difference(scores, decoded[:, 4:].swapaxes(1, 2)) <= 5e-4


@pytest.mark.parametrize("name", ["yolo11n-pst", "yolo11n"])
def test_detectors_start_as_their_twins_do(name):
  with torch.random.fork_rng():
    torch.manual_seed(0)
    twin = pst_jax.torch.create_model(name, **DETECTOR).state_dict()
  model = pst_jax.create_model(name, **DETECTOR)
  variables = quick_jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  for entry, value in pst_jax.convert.to_torch(model, variables).items():
    other = twin[entry].double().numpy()
    error = 5 * other.std() / np.sqrt(other.size)  # of the mean of so few draws
    np.testing.assert_allclose(value.mean(), other.mean(), atol=0.05 + error, err_msg=entry)
    if value.size > 500:
      np.testing.assert_allclose(value.std(), other.std(), rtol=0.25, err_msg=entry)
