"""Classification on the CPU: this project's Flax networks against the same networks in PyTorch.

    python -m benchmarks.classification
    python -m benchmarks.classification --quick    # one network, one batch: is all in order?

Both sides hold the same weights, run in float32 in one process with the same number of threads and
the same allocator settings, and must agree on the logits before anything is timed. Every
repetition times Flax and PyTorch one right after the other, in alternating order; the ratio is the
median over the repetitions of Flax / PyTorch: below 1 this project is faster.
Needs the extras `train` (optax) and `torch`, and a C++ compiler for torch.compile.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import pst_jax
import pst_jax.torch
from benchmarks.allocator import tune_allocator

LEARNING_RATE = 1e-3


def arguments():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--models", nargs="+", default=["r18-cls-pst", "r50-cls-pst"])
  parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
  parser.add_argument("--size", type=int, default=224, help="side of the images")
  parser.add_argument("--top-k", type=int, default=0, help="inference; training is coarse")
  parser.add_argument("--repeats", type=int, default=11, help="timed pairs per row")
  parser.add_argument("--quick", action="store_true", help="r18-cls-pst, batch 8, 3 pairs")
  options = parser.parse_args()
  if options.quick:
    options.models, options.batches, options.repeats = ["r18-cls-pst"], [8], 3
  return options


class Flax:
  """The network of this project: `inference()` and `training()` run once and return logits."""

  def __init__(self, name, images, labels, top_k):
    self.images, self.labels = jnp.asarray(images.transpose(0, 2, 3, 1)), jnp.asarray(labels)
    model = pst_jax.create_model(name, top_k=top_k)
    self.variables = jax.jit(model.init)(jax.random.key(0), self.images)
    self._apply = self._jit(model.apply)
    self._step = self._jit(self._training_step(model.clone(top_k=0)), donate_argnums=0)

  def _jit(self, function, **options):
    return jax.jit(function, compiler_options=pst_jax.compiler_options(), **options)

  def _training_step(self, model):
    self._optimizer = optax.sgd(LEARNING_RATE, momentum=0.9, nesterov=True)

    def loss(params, batch_stats, images, labels):
      variables = {"params": params, "batch_stats": batch_stats}
      logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), (logits, updates["batch_stats"])

    def step(state, images, labels):
      params, batch_stats, momentum = state
      gradient = jax.grad(loss, has_aux=True)
      gradients, (logits, batch_stats) = gradient(params, batch_stats, images, labels)
      updates, momentum = self._optimizer.update(gradients, momentum, params)
      return (optax.apply_updates(params, updates), batch_stats, momentum), logits

    return step

  def start_training(self):
    params, batch_stats = jax.tree.map(
      jnp.copy,
      (
        self.variables["params"],
        self.variables["batch_stats"],
      ),
    )
    self._state = params, batch_stats, self._optimizer.init(params)

  def inference(self):
    return jax.block_until_ready(self._apply(self.variables, self.images))

  def training(self):
    self._state, logits = self._step(self._state, self.images, self.labels)
    jax.block_until_ready(self._state)
    return logits


class PyTorch:
  """The twin with the same weights, in one memory format."""

  def __init__(self, name, state_dict, images, labels, top_k, memory_format):
    self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
    self.images = self.images.to(memory_format=memory_format)
    self.model = pst_jax.torch.create_model(name, top_k=top_k)
    # A copy: training must not write into the arrays of the other side.
    self.model.load_state_dict({key: torch.tensor(value) for key, value in state_dict.items()})
    self.model = self.model.to(memory_format=memory_format).eval()

  def compile(self):
    """Folds BatchNorm and compiles."""
    self.model = torch.compile(pst_jax.torch.fold_batch_norm(self.model))

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
    logits = self.model(self.images)
    torch.nn.functional.cross_entropy(logits, self.labels).backward()
    self._optimizer.step()
    return logits.detach()


VARIANTS = (
  ("inference", "eager NCHW", torch.contiguous_format, False),
  ("inference", "eager channels_last", torch.channels_last, False),
  ("inference", "compiled, folded, channels_last", torch.channels_last, True),
  ("training", "eager channels_last", torch.channels_last, False),
)
"""Rows of the table: (what runs, name of the PyTorch side, its memory format, compiled)."""


def check_agreement(ours, theirs, row):
  """Stops the benchmark where the two sides do not compute the same logits."""
  ours, theirs = np.asarray(ours), theirs.numpy()
  difference = np.abs(ours - theirs).max() / theirs.std()
  if not difference <= 2e-3:
    raise SystemExit(f"{row}: logits differ by {difference:.1e} of their standard deviation")


def seconds(run):
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def measure(ours, theirs, repeats):
  """Medians of (our seconds, their seconds, ratio) over paired, alternating repetitions."""
  for run in (ours, theirs):
    run()
  pairs = []
  for i in range(repeats):
    first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
    times = {first: seconds(first)}
    times[second] = seconds(second)
    pairs.append((times[ours], times[theirs], times[ours] / times[theirs]))
  return [statistics.median(column) for column in zip(*pairs, strict=True)]


def main():
  options = arguments()
  tune_allocator()
  threads = len(os.sched_getaffinity(0))
  torch.set_num_threads(threads)
  print(f"jax {jax.__version__}, torch {torch.__version__}, {threads} threads, float32")
  print(f"compiler options {pst_jax.compiler_options()}, top_k {options.top_k}")
  print(f"{'model':12} {'batch':>5} {'':9} {'PyTorch side':32} {'Flax':>9} {'PyTorch':>9}  ratio")
  rng = np.random.default_rng(0)
  for name in options.models:
    for batch in options.batches:
      images = rng.standard_normal((batch, 3, options.size, options.size), dtype=np.float32)
      labels = rng.integers(0, 1000, batch)
      flax = Flax(name, images, labels, options.top_k)
      state_dict = pst_jax.convert.to_torch(name, flax.variables)
      for task, variant, memory_format, compiled in VARIANTS:
        twin = PyTorch(name, state_dict, images, labels, options.top_k, memory_format)
        if compiled:
          twin.compile()
        if task == "training":
          flax.start_training()
          twin.start_training()
        ours, theirs = getattr(flax, task), getattr(twin, task)
        row = f"{name:12} {batch:5} {task:9} {variant:32}"
        check_agreement(ours(), theirs(), row)
        flax_time, torch_time, ratio = measure(ours, theirs, options.repeats)
        print(f"{row} {flax_time:8.3f}s {torch_time:8.3f}s  {ratio:5.2f}", flush=True)


if __name__ == "__main__":
  main()
