"""Every file of configs/: it builds, it trains, it says what to expect."""

import ast
import dataclasses
import functools
import math
import pathlib

import jax
import numpy as np
import pytest
from support import shallow_networks
from support.quick_jit import OPTIONS

import pst_jax
from train.config import Config, load_file
from train.config_values import difference
from train.setup import make_setup
from train.sharding import put_batch

REPOSITORY = pathlib.Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "configs").rglob("*.py"))
CONFIGS = {path.stem: load_file(path) for path in FILES}
PAPER = "imagenet_r50_cls_pst"
ON_THE_PAPERS_RECIPE = [
  "imagenet_r18_cls_pst",
  "imagenet_r101_cls_pst",
  "imagenet_resnet18",
  "imagenet_resnet26",
  "imagenet_resnet50",
  "imagenet_resnet101",
]
IMAGENET = {"num_classes": 1000, "num_train": 1_281_167}
COCO = {"num_classes": 80, "num_train": 118_287}
CLASSIFICATION, DETECTION = (
  [name for name, config in CONFIGS.items() if config.task == task]
  for task in ("classification", "detection")
)


def description(path) -> str:
  return ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_it_builds_for_imagenet_on_eight_devices(name):
  setup = make_setup(CONFIGS[name], **IMAGENET)
  assert setup.mesh.size == 8
  assert setup.total_steps == round(setup.config.epochs * 1_281_167 / setup.config.batch_size)


@pytest.mark.parametrize("name", DETECTION)
def test_it_builds_for_coco_on_eight_devices(name):
  # Small images: what is traced is the same, and they have tokens for top_k 8.
  data = dataclasses.replace(CONFIGS[name].data, image_size=96)
  setup = make_setup(dataclasses.replace(CONFIGS[name], data=data), **COCO)
  assert setup.mesh.size == 8
  assert setup.total_steps == round(setup.config.epochs * 118_287 / setup.config.batch_size)


def shrunk(config: Config) -> Config:
  """The same recipe for a network and images that compile in seconds; equal for equal recipes.

  That every network trains is tested with the networks: here it is the recipe that must.
  """
  group_size = config.model.batch_norm_group_size and 4
  model = dataclasses.replace(
    config.model, name="resnet18", stem="small", width=0.125, batch_norm_group_size=group_size
  )
  return dataclasses.replace(
    config,
    run_dir="",
    init_from="",
    batch_size=8,
    eval_top_k=(0,),
    model=model,
    data=dataclasses.replace(config.data, image_size=8, max_shift=0),
    # That network has no gate to train alone.
    optim=dataclasses.replace(config.optim, trainable=()),
  )


def filled(rng, leaf):
  """Compiling the real initial state takes as long as the step."""
  return jax.device_put(rng.uniform(0, 0.1, leaf.shape).astype(leaf.dtype), leaf.sharding)


@pytest.fixture(scope="module")
def first_step():
  """Metrics and parameters after a step of a recipe; equal recipes are compiled once."""
  known = {}
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(256, size=(8, 8, 8, 3), dtype=np.uint8),
    "label": rng.integers(5, size=8).astype(np.int32),
  }

  def run(config):
    if config not in known:
      setup = make_setup(config, num_classes=5, num_train=8, devices=jax.devices()[:1])
      state = jax.tree.map(functools.partial(filled, rng), setup.abstract_state)
      state, metrics = setup.train_step(state, put_batch(batch, setup.mesh))
      known[config] = jax.device_get((metrics, state.params))
    return known[config]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
    yield run


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_its_step_trains(first_step, name):
  metrics, params = first_step(shrunk(CONFIGS[name]))
  assert 0 < metrics["loss"] < 4 * math.log(5)
  assert metrics["grad_norm"] > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


DETECTORS_STEPS = ["digit_scenes", "folder", "coco_yolo11n_pst", "coco_yolo11n"]
"""Configs whose optimizers differ; the others' are equal to one of theirs, as a test below says."""


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS_STEPS)
def test_its_step_trains_a_detector(name):
  config = CONFIGS[name]
  group_size = config.model.batch_norm_group_size and 2
  # One of the recipes trains yolo11n-pst, and the others have a quicker one in its place.
  is_quick = config.model.name == "yolo11n-pst" and name != "coco_yolo11n_pst"
  network = shallow_networks.DETECTOR if is_quick else config.model.name
  config = dataclasses.replace(
    config,
    init_from="",
    batch_size=4,
    eval_top_k=(0,),
    model=dataclasses.replace(
      config.model, name=network, width=0.125, batch_norm_group_size=group_size
    ),
    data=dataclasses.replace(config.data, image_size=64, max_boxes=3),
  )
  rng = np.random.default_rng(0)
  corner = rng.uniform(0, 30, (4, 3, 2))
  batch = {
    "image": rng.integers(256, size=(4, 64, 64, 3), dtype=np.uint8),
    "boxes": np.concatenate([corner, corner + rng.uniform(10, 30, (4, 3, 2))], -1).astype("f"),
    "classes": rng.integers(5, size=(4, 3)).astype(np.int32),
    "valid": np.arange(3) < np.array([[3], [0], [2], [1]]),
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
    setup = make_setup(config, num_classes=5, num_train=8, devices=jax.devices()[:1])
    start = jax.tree.map(functools.partial(filled, rng), setup.abstract_state)
    state, metrics = setup.train_step(start, put_batch(batch, setup.mesh))
  assert all(np.isfinite(metrics[name]) and metrics[name] > 0 for name in ("box", "dfl", "loss"))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))


@pytest.mark.parametrize("name", [n for n in DETECTION if n.startswith("coco_")])
def test_networks_and_controls_on_coco_differ_in_network_and_augmentation_alone(name):
  config, first = CONFIGS[name], CONFIGS["coco_yolo11n_pst"]
  changed = {line.split(":")[0] for line in difference(first, config)}
  has_pst = name.endswith("_pst")
  own = {"data.scale", "data.copy_paste", "data.mixup"}
  assert changed <= {"model.name", *own, *(() if has_pst else ("evals", "optim.frozen"))}
  assert config.model.name.replace("-", "_") == name.removeprefix("coco_")
  if not has_pst:
    assert config.data == CONFIGS[f"{name}_pst"].data
  assert config.optim.frozen == (("*/gate*",) if has_pst else ())


def test_coco_trains_as_the_authors_say():
  config = CONFIGS["coco_yolo11n_pst"]
  assert (config.epochs, config.batch_size, config.model.top_k) == (600, 128, 0)
  assert config.model.batch_norm_group_size == 16
  optim = config.optim
  assert (optim.name, optim.learning_rate, optim.final_factor) == ("sgd", 0.01, 0.01)
  assert (optim.momentum, optim.warmup_epochs, optim.clip_norm) == (0.937, 3, 10)
  assert optim.weight_decay == 5e-4 * 128 / 64
  data = config.data
  assert (data.image_size, data.mosaic, data.copy_paste, data.scale) == (640, 1, 0.1, 0.5)
  assert (data.mixup, data.flip, data.close_mosaic_epochs) == (0, 0.5, 10)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("field", ["Command", "Hardware", "Accuracy", "Reproduced"])
def test_its_description_says(path, field):
  lines = description(path).splitlines()
  assert [line for line in lines if line.startswith(f"{field:10s} ")], description(path)


@pytest.mark.parametrize("name", ON_THE_PAPERS_RECIPE)
def test_the_papers_networks_and_controls_differ_in_the_network_alone(name):
  changed = {line.split(":")[0] for line in difference(CONFIGS[PAPER], CONFIGS[name])}
  assert changed <= {"model.name", "evals"}
  assert CONFIGS[name].model.name.replace("-", "_") == name.removeprefix("imagenet_")


def test_the_paper_trains_as_its_text_says():
  config = CONFIGS[PAPER]
  assert (config.epochs, config.batch_size, config.model.top_k) == (200, 256, 0)
  optim = config.optim
  assert (optim.name, optim.learning_rate, optim.weight_decay) == ("sgd", 0.2, 1e-4)
  assert (optim.schedule, optim.final_factor, optim.warmup_epochs) == ("cosine", 0.01, 0)
  data = config.data
  assert (data.crop, data.flip, data.randaugment_layers) == ("random_resized", True, 2)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_from_any_working_directory(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert load_file(str(path)) == CONFIGS[path.stem]


def test_no_two_recipes_share_a_run_folder():
  folders = [config.run_dir for config in CONFIGS.values()]
  assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("name", DETECTION)
def test_the_page_on_detection_lists_it(name):
  assert f"`{name}`" in (REPOSITORY / "docs/detection.md").read_text()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("imagenet_")])
def test_the_documentation_lists_it(name):
  text = "".join((REPOSITORY / file).read_text() for file in ("README.md", "docs/recipes.md"))
  assert f"`{name}`" in text or f"configs/{name}.py" in text
