"""The detection task in the trainer's own steps: exact however the batch is cut."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import shallow_networks
from support.boxes_made import random_records, record
from support.quick_jit import OPTIONS
from support.random_variables import random_variables

import pst_jax
from pst_jax import detection
from pst_jax.convert import Metadata, Weights, write_weights
from pst_jax.errors import UserError
from pst_jax.preprocessing import decode_upright
from train.data import train_batches
from train.evaluation.evaluator import evaluate, measure
from train.init_from import initial_values
from train.run.step_metrics import StepMetrics
from train.schema import EvalConfig, ModelConfig, OptimConfig
from train.setup import make_setup
from train.sharding import put_batch
from train.step import FINITE
from train.tasks.detection.config import Config, DataConfig, SuppressionConfig
from train.tasks.detection.data import BoxDataset, eval_example, padding, train_example
from train.tasks.detection.task import TASK

CONFIG = Config(
  epochs=2,
  batch_size=16,
  eval_batch_size=12,
  evals={"coarse": EvalConfig(0), "random": EvalConfig(1, "random")},
  ema_decay=0.99,
  ema_ramp=10.0,
  model=ModelConfig(shallow_networks.DETECTOR, dtype="float64", batch_norm_group_size=2),
  data=DataConfig(image_size=64, max_boxes=24, mixup=0.3, copy_paste=0.5, threads=1),
  optim=OptimConfig(learning_rate=0.001, clip_norm=10.0, clip_epsilon=1e-6),
  suppression=SuppressionConfig(max_detections=20),
)
EMPTY = record(np.full((50, 40, 3), 90, np.uint8), [], image_id=100)
RECORDS = [*random_records(36, outlines=True), EMPTY]


def dataset(config=CONFIG):
  return BoxDataset(
    train=RECORDS,
    eval=RECORDS,
    num_classes=4,
    class_names=("ant", "bee", "cat", "dog"),
    training_example=functools.partial(train_example, config.data, 20),
    evaluation_example=functools.partial(eval_example, config.data),
    padding=padding(config.data),
    decode=decode_upright,
    category_ids=(3, 5, 7, 9),
  )


@pytest.fixture(scope="module", autouse=True)
def double_precision_and_quick_compilation():
  with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
    yield


@functools.cache
def setup_on(devices, fsdp=1, steps=1, group=2):
  model = dataclasses.replace(CONFIG.model, batch_norm_group_size=group)
  config = dataclasses.replace(CONFIG, fsdp=fsdp, accumulation_steps=steps, model=model)
  return make_setup(config, 4, len(RECORDS), jax.devices()[:devices])


@functools.cache
def trained(*how):
  """After two steps, the second across the closing of the mosaic."""
  setup = setup_on(*how)
  state, history = setup.initial_state(), []
  batches = train_batches(dataset(), CONFIG.data, seed=0, batch_size=16, first_step=0)
  for _ in range(2):
    state, metrics = setup.train_step(state, put_batch(next(batches), setup.mesh))
    history.append(jax.device_get(metrics))
  return jax.device_get(state), history


@pytest.mark.slow
@pytest.mark.parametrize("how", [(8,), (1, 1, 8), (8, 4), (2, 2, 4)])
def test_devices_and_micro_batches_change_nothing_but_rounding(how):
  actual, expected = (jax.tree.leaves_with_path(trained(*each)) for each in (how, (1,)))
  for (path, a), (_, e) in zip(actual, expected, strict=True):
    scale = max(np.max(np.abs(e)), 1e-5)
    assert np.max(np.abs(a - e)) <= 1e-10 * scale, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_batch_norm_over_the_whole_batch_is_the_same_on_eight_devices():
  actual, expected = (jax.tree.leaves_with_path(trained(n, 1, 1, None)) for n in (8, 1))
  for (path, a), (_, e) in zip(actual, expected, strict=True):
    scale = max(np.max(np.abs(e)), 1e-5)
    assert np.max(np.abs(a - e)) <= 1e-10 * scale, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_the_normaliser_is_the_sum_of_target_scores_of_the_whole_batch():
  """By hand: the terms of pst_jax.detection for the batch as one, with the steps' own metrics."""
  setup = setup_on(1)
  batch = next(train_batches(dataset(), CONFIG.data, seed=0, batch_size=16, first_step=0))
  state = setup.initial_state()
  images, targets = TASK.inputs(batch, None, CONFIG, jnp.float64)
  maps, _ = jax.jit(
    lambda variables, images: setup.model.apply(
      variables, images, train=True, mutable=["batch_stats"]
    ),
    compiler_options=OPTIONS,
  )(state.variables, images)
  losses = detection.loss(maps, targets)
  (metrics, _) = trained(1)[1]
  assert metrics["loss"] == pytest.approx(float(losses.total), rel=1e-9)
  for name in ("box", "classes", "dfl"):
    assert metrics[name] == pytest.approx(float(getattr(losses, name)), rel=1e-9)


def test_gains_multiply_their_terms():
  maps = [jnp.zeros((1, n, n, 68)) for n in (8, 4, 2)]
  targets = detection.Targets(
    jnp.array([[[8.0, 8, 40, 40]]]), jnp.array([[1]]), jnp.array([[True]])
  )
  one = TASK.loss(maps, targets, CONFIG)
  other = TASK.loss(maps, targets, dataclasses.replace(CONFIG, box_gain=15.0, class_gain=0.0))
  assert float(other.logs["box"]) == pytest.approx(2 * float(one.logs["box"]))
  assert (other.logs["classes"], other.logs["dfl"]) == (0, one.logs["dfl"])
  assert float(one.total) == pytest.approx(16 * float(sum(one.logs.values())))


@functools.cache
def evaluated(devices):
  return evaluate(setup_on(devices), trained(1)[0].eval_variables, dataset())


@pytest.mark.slow
def test_every_image_is_evaluated_once_the_one_without_boxes_too():
  assert {metrics["count"] for metrics in evaluated(1).values()} == {37}


@pytest.mark.slow
def test_an_evaluation_is_the_same_on_eight_devices():
  for name, metrics in evaluated(8).items():
    assert metrics == pytest.approx(evaluated(1)[name], rel=1e-9)


@pytest.mark.slow
def test_ground_truth_comes_back_from_the_devices_to_the_bit():
  setup = setup_on(1)
  total = measure(setup, setup.initial_state().variables, dataset())["coarse"]
  truth = total.batches[0]
  for index, image in enumerate(truth.images[:5]):
    mine = truth.truth_boxes[truth.truth_images == image]
    side = [*decode_upright(RECORDS[index]["image"]).shape[1::-1]] * 2
    np.testing.assert_array_equal(mine, np.round(RECORDS[index]["boxes"] * side, 3))


def test_boxes_on_the_letterboxed_image_become_boxes_on_the_image():
  example = eval_example(CONFIG.data, {**RECORDS[0], "image": np.zeros((100, 200, 3), np.uint8)})
  measured = {
    **{name: value[None] for name, value in example.items()},
    "mask": np.array([True]),
    "num_classes": np.array(4),
    "found": {
      "boxes": np.array([[[0, 16, 32, 48], [-9, -9, 99, 99.0]]]),  # 64 x 32 pixels, 16 above
      "scores": np.array([[0.9, 0.8]]),
      "classes": np.array([[0, 1]]),
      "valid": np.array([[True, True]]),
    },
  }
  found = TASK.update(None, measured).batches[0].found_boxes
  np.testing.assert_allclose(found, [[0, 0, 100, 100], [0, 0, 200, 100]])


@pytest.mark.slow
def test_details_and_files_of_an_evaluation(tmp_path):
  total = measure(setup_on(1), trained(1)[0].eval_variables, dataset())["coarse"]
  text = TASK.details(total, CONFIG, dataset())
  assert "\nant " in text and "letterboxed to 64x64, one fixed size" in text
  TASK.files["detections"](tmp_path / "found.json", total, dataset(), force=False)
  found = json.loads((tmp_path / "found.json").read_text())
  assert {each["category_id"] for each in found} <= {3, 5, 7, 9}
  assert {each["image_id"] for each in found} <= {*range(36), 100}
  TASK.files["precision_recall"](tmp_path / "curve.png", total, dataset(), force=False)
  TASK.files["pictures"](tmp_path / "found.png", total, dataset(), force=False)
  for name in ("curve.png", "found.png"):
    assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_term_and_gradients():
  setup = setup_on(1)
  state = setup.initial_state()
  path = ("head", "box0", "out", "kernel")
  params = jax.tree_util.tree_map_with_path(
    lambda p, x: x * jnp.nan if tuple(k.key for k in p) == path else x, state.params
  )
  batch = next(train_batches(dataset(), CONFIG.data, seed=0, batch_size=16, first_step=0))
  _, metrics = setup.train_step(state.replace(params=params), put_batch(batch, setup.mesh))

  class NoCheckpoint:
    latest_step = None

  pending = StepMetrics(NoCheckpoint(), setup.abstract_state.params)
  pending.add(1, metrics)
  assert not np.asarray(metrics[FINITE]).all()
  message = r"the loss was nan \(so were .*dfl.*; not finite: \d+ of \d+ gradients, such as that of"
  with pytest.raises(UserError, match=message):
    pending.check()


def test_a_classifier_is_refused():
  config = dataclasses.replace(CONFIG, model=ModelConfig("resnet18_pst"))
  with pytest.raises(UserError, match=r"resnet18_pst, which is no detector: choose one of r18-pst"):
    make_setup(config, 4, 37)


def test_a_side_that_is_no_multiple_of_32_is_refused():
  data = dataclasses.replace(CONFIG.data, image_size=100)
  with pytest.raises(UserError, match=r"data.image_size is 100, but .* multiple of 32"):
    make_setup(dataclasses.replace(CONFIG, data=data), 4, 37)


def test_more_boxes_than_rows_are_an_error_with_the_count():
  config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, max_boxes=2))
  with pytest.raises(UserError, match=r"has \d+ boxes, but the table has room for 2: raise max_b"):
    next(train_batches(dataset(config), config.data, seed=0, batch_size=16, first_step=0))


def test_the_branch_of_the_classes_is_new_where_their_number_differs(tmp_path):
  """And all the rest is taken from the weights."""
  small = {"num_classes": 3, "width": 0.125}
  network = pst_jax.create_model("yolo11n-pst", **small)
  variables = random_variables(network, jnp.zeros((1, 64, 64, 3), jnp.float32))
  weights = tmp_path / "three.safetensors"
  write_weights(weights, Weights(variables, Metadata("yolo11n-pst", small, "x", task="detection")))
  model = dataclasses.replace(CONFIG.model, name="yolo11n-pst", width=0.125)
  config = dataclasses.replace(CONFIG, init_from=str(weights), run_dir=str(tmp_path), model=model)
  values, report = initial_values(make_setup(config, 4, 37, jax.devices()[:1]))
  assert "params/head/box0/out/kernel" in values and "params/neck/fuse3/cv1/conv/kernel" in values
  assert not [name for name in values if "/class" in name]
  assert any("new " in line and "head/class0" in line for line in report)


def test_weights_without_a_run_say_how_images_are_prepared():
  facts = {"image_size": 320, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1.0]}
  metadata = Metadata(
    "yolo11n", {"num_classes": 2, "width": 0.5}, "x", preprocessing=facts, task="detection"
  )
  config = TASK.config_of(metadata)
  assert (config.data.image_size, config.data.mean) == (320, (0.1, 0.2, 0.3))
  assert (config.model.name, config.model.width) == ("yolo11n", 0.5)
  assert TASK.config_of(Metadata("yolo11n", {"num_classes": 80}, "x")).data.image_size == 640
