"""The trainer's own step against the authors' recipe for detectors, run by them in float64.

Where fewer than ten anchors of a box have a metric above 0, the rest of its ten are picked among
equal zeros, and an anchor that several boxes keep goes to the one that it overlaps most: so the
order of equals can decide to whom an anchor goes. Ours is the lower index; PyTorch's is its own,
and is used here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import golden_values
from support.detectors import detector_state_dict, golden_targets
from support.quick_jit import STEP_OPTIONS

import pst_jax
from pst_jax.detection import assignment
from train.freezing import is_trained
from train.optim import make_optimizer, make_schedule
from train.schema import ModelConfig, OptimConfig
from train.sharding import make_mesh
from train.state import TrainState
from train.step import make_train_step
from train.tasks.detection.config import RECIPE, Config
from train.tasks.detection.task import TASK

NAME, BATCH, SIZE, STEPS = "yolo11n-pst", 4, (96, 64), 5
WARMUP, STEPS_PER_EPOCH = 8, 100
CONFIG = Config(
  epochs=600,
  batch_size=BATCH,
  ema_decay=0.9999,
  ema_ramp=2000.0,
  model=ModelConfig(NAME, dtype="float64"),
  # The gates have no gradient, and are not decayed.
  optim=OptimConfig(
    **{
      **vars(RECIPE),
      "warmup_epochs": WARMUP / STEPS_PER_EPOCH,
      "warmup_min_steps": 0,
      "frozen": ("*/gate*",),
    }
  ),
)


def golden(key):
  return golden_values.arrays("detector_recipe")[f"{NAME}/{key}"]


def batch_of(step):
  pixels = golden_values.network_input(f"det.recipe{step}.{NAME}", (BATCH, 3, *SIZE))
  prefix = f"{NAME}/step{step}/"
  arrays = golden_values.arrays("detector_recipe")
  boxes, classes, valid = golden_targets(arrays, prefix, BATCH, *SIZE, size=10, dtype="float64")
  # As the step divides by 255.
  return {
    "image": pixels.astype("float64") * 255,
    "boxes": boxes,
    "classes": classes,
    "valid": valid,
  }


def torch_largest(x, k):
  """`pst_jax.detection.assignment._largest` in PyTorch's order of equals."""
  torch = pytest.importorskip("torch")

  def on_the_host(values):
    values = torch.tensor(np.array(values))
    best = torch.topk(values, min(k, values.shape[-1]), dim=-1).indices
    return torch.zeros(values.shape, dtype=torch.bool).scatter_(-1, best, True).numpy()

  return jax.pure_callback(on_the_host, jax.ShapeDtypeStruct(x.shape, bool), x)


@pytest.fixture(scope="module", autouse=True)
def the_order_of_equals_is_pytorchs():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(assignment, "_largest", torch_largest)
    yield


@functools.cache
def run():
  """Metrics of five steps; the variables before and after, and their average."""
  with jax.enable_x64(True):
    schedule = make_schedule(CONFIG.optim, 600 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    optimizer = make_optimizer(CONFIG.optim, schedule, STEPS_PER_EPOCH)
    model = pst_jax.create_model(NAME, dtype=jnp.float64)
    variables = pst_jax.convert.from_torch(NAME, detector_state_dict(NAME))
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
    state = TrainState(
      jnp.zeros((), jnp.int32),
      variables["params"],
      variables["batch_stats"],
      jax.jit(optimizer.init, compiler_options=STEP_OPTIONS)(variables["params"]),
      dict(variables),
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    step = make_train_step(TASK, model, optimizer, schedule, CONFIG, mesh)
    step, history = jax.jit(step, compiler_options=STEP_OPTIONS), []
    for index in range(STEPS):
      state, metrics = step(state, batch_of(index))
      history.append(jax.device_get(metrics))
    return history, *jax.device_get((variables, state.variables, state.ema))


@pytest.mark.slow
@pytest.mark.parametrize("step", range(STEPS))
def test_losses_and_gradients_of_every_step_are_the_authors(step):
  metrics = run()[0][step]
  items = [metrics[name] for name in ("box", "classes", "dfl")]
  np.testing.assert_allclose(items, golden(f"step{step}/loss_items"), rtol=1e-4)
  np.testing.assert_allclose(metrics["loss"], BATCH * sum(items), rtol=1e-12)
  np.testing.assert_allclose(metrics["grad_norm"], golden(f"step{step}/grad_norm"), rtol=1e-4)
  np.testing.assert_allclose(metrics["learning_rate"], golden(f"step{step}/lr"), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "index"), [("change", 2), ("ema_change", 3)])
def test_after_five_steps_every_value_has_moved_as_far_as_the_authors(key, index):
  before = pst_jax.convert.to_torch(NAME, run()[1])
  after = pst_jax.convert.to_torch(NAME, run()[index])
  found = {name: np.linalg.norm(after[name] - before[name]) for name in before}
  prefix = f"{NAME}/{key}/"
  wanted = {
    name.removeprefix(prefix): value
    for name, value in golden_values.arrays("detector_recipe").items()
    if name.startswith(prefix) and not name.endswith("num_batches_tracked")
  }
  compared = [name for name in wanted if name in found]
  assert len(compared) > 400
  for name in compared:
    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-7, err_msg=name)


def test_the_gates_alone_are_frozen():
  model = pst_jax.create_model(NAME, width=0.125)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  flags = is_trained(shapes["params"], (), CONFIG.optim.frozen)
  frozen = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, flag in jax.tree_util.tree_leaves_with_path(flags)
    if not flag
  ]
  assert len(frozen) == 4
  assert all("/gate_" in name for name in frozen)
