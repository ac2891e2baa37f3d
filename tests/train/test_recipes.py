"""Every file of configs/: it builds, it trains, it says what to expect."""

import ast
import dataclasses
import math
import pathlib

import jax
import numpy as np
import pytest
from quick_jit import OPTIONS

import pst_jax
from train.config import Config, difference, load_file
from train.setup import make_setup
from train.sharding import put_batch

REPOSITORY = pathlib.Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "configs").glob("*.py"))
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


def description(path) -> str:
  return ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_builds_for_imagenet_on_eight_devices(name):
  setup = make_setup(CONFIGS[name], **IMAGENET)
  assert setup.mesh.size == 8
  assert setup.total_steps == round(setup.config.epochs * 1_281_167 / setup.config.batch_size)


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
  )


@pytest.fixture(scope="module")
def first_step():
  """Metrics and parameters after a step of a recipe; equal recipes are compiled once."""
  known = {}
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(256, size=(8, 8, 8, 3), dtype=np.uint8),
    "label": rng.integers(5, size=8).astype(np.int32),
  }

  def filled(leaf):
    # Compiling the real initial state takes as long as the step.
    return jax.device_put(rng.uniform(0, 0.1, leaf.shape).astype(leaf.dtype), leaf.sharding)

  def run(config):
    if config not in known:
      setup = make_setup(config, num_classes=5, num_train=8, devices=jax.devices()[:1])
      state = jax.tree.map(filled, setup.abstract_state)
      state, metrics = setup.train_step(state, put_batch(batch, setup.mesh))
      known[config] = jax.device_get((metrics, state.params))
    return known[config]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pst_jax, "compiler_options", lambda platform=None: OPTIONS)
    yield run


@pytest.mark.parametrize("name", CONFIGS)
def test_its_step_trains(first_step, name):
  metrics, params = first_step(shrunk(CONFIGS[name]))
  assert 0 < metrics["loss"] < 4 * math.log(5)
  assert metrics["grad_norm"] > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("field", ["Command", "Hardware", "Accuracy", "Reproduced"])
def test_its_description_says(path, field):
  lines = description(path).splitlines()
  assert [line for line in lines if line.startswith(f"{field:10s} ")], description(path)


@pytest.mark.parametrize("name", ON_THE_PAPERS_RECIPE)
def test_the_papers_networks_and_controls_differ_in_the_network_alone(name):
  changed = {line.split(":")[0] for line in difference(CONFIGS[PAPER], CONFIGS[name])}
  assert changed <= {"model.name", "eval_top_k"}
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


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("imagenet_")])
def test_the_readme_lists_it(name):
  text = (REPOSITORY / "README.md").read_text()
  assert f"`{name}`" in text or f"configs/{name}.py" in text
