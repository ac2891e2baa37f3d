"""Networks on the CPU: this project's in Flax against the same networks in PyTorch.

    python -m benchmarks.networks
    python -m benchmarks.networks --models yolo11n-pst yolo11n --batches 4 --size 320
    python -m benchmarks.networks --quick    # one network, one batch: is all in order?

Both sides hold the same weights, run in float32 in one process with the same number of threads and
the same allocator settings, and must agree on the outputs before anything is timed. A step of
training is forward, backward and SGD, with the cross-entropy of classes or, as a detector's loss
has no twin, the mean square of its maps. Every repetition times Flax and PyTorch one right after
the other, in alternating order; the ratio is the median over the repetitions of Flax / PyTorch:
below 1 this project is faster. In the rows "folded" BatchNorm is folded on both sides.
Needs the extras `train` (optax) and `torch`, and a C++ compiler for torch.compile.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import pst_jax
import pst_jax.torch
from benchmarks.common import make_parser, measure, tune_allocator

LEARNING_RATE = 1e-3


def begin(description, batches, top_k):
  """Reads the options, sets threads and allocator for both sides, and prints what is compared."""
  parser = make_parser(description)
  parser.add_argument("--models", nargs="+", default=["r18-cls-pst", "r50-cls-pst"])
  parser.add_argument("--batches", nargs="+", type=int, default=batches)
  parser.add_argument("--size", type=int, default=224, help="side of the images")
  parser.add_argument("--top-k", type=int, default=top_k, help="of inference")
  parser.add_argument("--repeats", type=int, default=11, help="timed pairs per row")
  parser.add_argument("--quick", action="store_true", help="r18-cls-pst, batch 8, 3 pairs")
  options = parser.parse_args()
  if options.quick:
    options.models, options.batches, options.repeats = ["r18-cls-pst"], [8], 3
  tune_allocator()
  threads = len(os.sched_getaffinity(0))
  torch.set_num_threads(threads)
  print(f"jax {jax.__version__}, torch {torch.__version__}, {threads} threads, float32")
  print(f"compiler options {pst_jax.compiler_options()}, top_k {options.top_k}")
  return options


class Flax:
  """The network of this project: `inference()` and `training()` run once and return outputs."""

  def __init__(self, name, images, labels, top_k):
    self.images, self.labels = jnp.asarray(images.transpose(0, 2, 3, 1)), jnp.asarray(labels)
    model = pst_jax.create_model(name, top_k=top_k)
    self.variables = jax.jit(model.init)(jax.random.key(0), self.images)
    options = {"compiler_options": pst_jax.compiler_options()}
    folded, self._folded_variables = pst_jax.fold_batch_norm(model, self.variables)
    self._apply = jax.jit(model.apply, **options)
    self._apply_folded = jax.jit(folded.apply, **options)
    step = self._training_step(model.clone(top_k=0))
    self._step = jax.jit(step, donate_argnums=0, **options)

  def _training_step(self, model):
    self._optimizer = optax.sgd(LEARNING_RATE, momentum=0.9, nesterov=True)

    def loss(params, batch_stats, images, labels):
      variables = {"params": params, "batch_stats": batch_stats}
      outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
      if isinstance(outputs, tuple):
        value = sum(jnp.square(each).mean() for each in outputs)
      else:
        value = optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()
      return value, (outputs, updates["batch_stats"])

    def step(state, images, labels):
      params, batch_stats, momentum = state
      gradient = jax.grad(loss, has_aux=True)
      gradients, (outputs, batch_stats) = gradient(params, batch_stats, images, labels)
      updates, momentum = self._optimizer.update(gradients, momentum, params)
      return (optax.apply_updates(params, updates), batch_stats, momentum), outputs

    return step

  def start_training(self):
    start = jax.tree.map(jnp.copy, self.variables)
    self._state = start["params"], start["batch_stats"], self._optimizer.init(start["params"])

  def inference(self):
    return jax.block_until_ready(self._apply(self.variables, self.images))

  def folded_inference(self):
    return jax.block_until_ready(self._apply_folded(self._folded_variables, self.images))

  def training(self):
    self._state, outputs = self._step(self._state, self.images, self.labels)
    jax.block_until_ready(self._state)
    return outputs


class PyTorch:
  """The twin with the same weights, in one memory format."""

  def __init__(self, name, state_dict, images, labels, top_k, memory_format):
    self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
    self.images = self.images.to(memory_format=memory_format)
    self.model = pst_jax.torch.create_model(name, top_k=top_k)
    # A copy: training must not write into the arrays of the other side.
    self.model.load_state_dict({key: torch.tensor(value) for key, value in state_dict.items()})
    self.model = self.model.to(memory_format=memory_format).eval()

  def compile(self, task):
    """Compiles; BatchNorm is folded where nothing is trained."""
    fold = pst_jax.torch.fold_batch_norm if task == "inference" else lambda model: model
    self.model = torch.compile(fold(self.model))

  def start_training(self):
    self.model.train().set_top_k(0)
    self._optimizer = torch.optim.SGD(
      self.model.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True, fused=True
    )

  def inference(self):
    with torch.inference_mode():
      return self.model(self.images)

  def training(self):
    self._optimizer.zero_grad(set_to_none=True)
    outputs = self.model(self.images)
    if isinstance(outputs, tuple):
      sum(each.square().mean() for each in outputs).backward()
    else:
      torch.nn.functional.cross_entropy(outputs, self.labels).backward()
    self._optimizer.step()
    return outputs


VARIANTS = (
  ("inference", "eager NCHW", torch.contiguous_format, False),
  ("inference", "eager channels_last", torch.channels_last, False),
  ("inference", "compiled, folded, channels_last", torch.channels_last, True),
  ("training", "eager channels_last", torch.channels_last, False),
  ("training", "compiled, channels_last", torch.channels_last, True),
)
"""Rows of the table: (what runs, PyTorch side, its memory format, whether folded and compiled)."""


def check_agreement(ours, theirs, row):
  """Stops the benchmark where the two sides do not compute the same outputs."""
  if not isinstance(theirs, tuple):
    ours, theirs = [ours], [theirs]
  for one, two in zip(ours, theirs, strict=True):
    two = two.detach().movedim(1, -1).numpy()
    difference = np.abs(np.asarray(one) - two).max() / two.std()
    if not difference <= 2e-3:
      raise SystemExit(f"{row}: outputs differ by {difference:.1e} of their standard deviation")


def cases(options):
  """Each network and batch: how its row begins, the Flax side, and PyTorch by its memory format."""
  rng = np.random.default_rng(0)
  for name in options.models:
    for batch in options.batches:
      images = rng.standard_normal((batch, 3, options.size, options.size), dtype=np.float32)
      labels = rng.integers(0, 1000, batch)
      flax = Flax(name, images, labels, options.top_k)
      state_dict = pst_jax.convert.to_torch(name, flax.variables)
      twin = functools.partial(PyTorch, name, state_dict, images, labels, options.top_k)
      yield f"{name:12} {batch:5}", flax, twin


def main():
  options = begin(__doc__, batches=[8, 32], top_k=0)
  print(f"{'model':12} {'batch':>5} {'':9} {'PyTorch side':32} {'Flax':>9} {'PyTorch':>9}  ratio")
  for begun, flax, make_twin in cases(options):
    for task, variant, memory_format, compiled in VARIANTS:
      twin = make_twin(memory_format)
      if compiled:
        twin.compile(task)
      if task == "training":
        flax.start_training()
        twin.start_training()
      ours, theirs = getattr(flax, task), getattr(twin, task)
      if compiled and task == "inference":
        ours = flax.folded_inference
      row = f"{begun} {task:9} {variant:32}"
      check_agreement(ours(), theirs(), row)
      flax_time, torch_time, ratio = measure(ours, theirs, options.repeats)
      print(f"{row} {flax_time:8.3f}s {torch_time:8.3f}s  {ratio:5.2f}", flush=True)


if __name__ == "__main__":
  main()
