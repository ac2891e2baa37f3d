"""BatchNorm folded into the convolutions: what it saves at inference on the CPU.

    python -m benchmarks.export
    python -m benchmarks.export --models r18-cls-pst --batches 8 --repeats 3    # is all in order?

The folded Flax network against itself unfolded, against the file that `python -m pst_jax export`
writes (run with the same compiler options), and against the PyTorch twin with its BatchNorm folded,
in float32, with the same weights, threads and allocator settings in one process. All must agree on
the logits before anything is timed. The ratio is folded Flax / the other side, the median over
repetitions that time both sides one right after the other: below 1 folded Flax is faster.
Needs the extras `train` (optax), `export` and `torch`.
"""

import argparse
import os

import jax
import jax.export
import numpy as np
import torch

import pst_jax
import pst_jax.torch
from benchmarks.allocator import tune_allocator
from benchmarks.classification import Flax, PyTorch, check_agreement, measure
from pst_jax.export import export_classifier
from pst_jax.inference import IMAGENET, Classifier, normalize


def arguments():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--models", nargs="+", default=["r18-cls-pst", "r50-cls-pst"])
  parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
  parser.add_argument("--size", type=int, default=224, help="side of the images")
  parser.add_argument("--top-k", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=11, help="timed pairs per row")
  return parser.parse_args()


class Networks:
  """One network with the same weights in every form; each method runs it once."""

  def __init__(self, name, batch, size, top_k):
    raw = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    self._raw = raw
    mean, std = IMAGENET["mean"], IMAGENET["std"]
    self._images = np.asarray(normalize(raw, mean, std, np.float32))
    nchw = np.ascontiguousarray(self._images.transpose(0, 3, 1, 2))
    labels = np.zeros(batch, np.int64)
    flax = Flax(name, nchw, labels, top_k)
    self.unfolded = flax.inference
    model = pst_jax.create_model(name, top_k=top_k)
    network, self._variables = pst_jax.fold_batch_norm(model, flax.variables)
    options = {"compiler_options": pst_jax.compiler_options()}
    self._folded = jax.jit(network.apply, **options)
    classifier = Classifier(network, self._variables, {"image_size": size, **IMAGENET})
    exported = export_classifier(classifier).serialize()
    self._exported = jax.jit(jax.export.deserialize(exported).call, **options)
    state_dict = pst_jax.convert.to_torch(name, flax.variables)
    self.twins = {
      layout: self._twin(name, state_dict, nchw, labels, top_k, memory_format)
      for layout, memory_format in LAYOUTS.items()
    }

  def _twin(self, name, state_dict, images, labels, top_k, memory_format):
    twin = PyTorch(name, state_dict, images, labels, top_k, memory_format)
    twin.model = pst_jax.torch.fold_batch_norm(twin.model)
    return twin.inference

  def folded(self):
    return jax.block_until_ready(self._folded(self._variables, self._images))

  def exported(self):
    return jax.block_until_ready(self._exported(self._raw))


LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def main():
  options = arguments()
  tune_allocator()
  threads = len(os.sched_getaffinity(0))
  torch.set_num_threads(threads)
  print(f"jax {jax.__version__}, torch {torch.__version__}, {threads} threads, float32")
  print(f"compiler options {pst_jax.compiler_options()}, top_k {options.top_k}")
  print(f"{'model':12} {'batch':>5} {'other side':30} {'folded':>9} {'other':>9}  ratio")
  for name in options.models:
    for batch in options.batches:
      networks = Networks(name, batch, options.size, options.top_k)
      expected = networks.twins["NCHW"]()
      others = {
        "Flax, not folded": networks.unfolded,
        "Flax, folded, exported file": networks.exported,
        **{f"PyTorch, folded, {layout}": twin for layout, twin in networks.twins.items()},
      }
      for other, run in {"Flax, folded": networks.folded, **others}.items():
        check_agreement(np.asarray(run()), expected, f"{name}, {other}")
      for other, run in others.items():
        ours, theirs, ratio = measure(networks.folded, run, options.repeats)
        row = f"{name:12} {batch:5} {other:30} {ours:8.3f}s {theirs:8.3f}s  {ratio:5.2f}"
        print(row, flush=True)


if __name__ == "__main__":
  main()
