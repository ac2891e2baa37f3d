"""BatchNorm folded into the convolutions: what it saves at inference on the CPU.

    python -m benchmarks.export
    python -m benchmarks.export --quick    # one network, one batch: is all in order?

The folded Flax network against itself unfolded, against the file that `python -m pst_jax export`
writes (run with the same compiler options), and against the PyTorch twin with its BatchNorm folded,
in float32, with the same weights, threads and allocator settings in one process. All must agree on
the logits before anything is timed. The ratio is folded Flax / the other side, the median over
repetitions that time both sides one right after the other: below 1 folded Flax is faster.
Needs the extras `train` (optax), `export` and `torch`.
"""

import jax
import jax.export
import numpy as np
import torch

import pst_jax
import pst_jax.torch
from benchmarks.common import measure
from benchmarks.networks import Flax, PyTorch, begin, check_agreement
from pst_jax.inference.classifier import IMAGENET, Classifier
from pst_jax.inference.predictor import normalize
from pst_jax.inference.stablehlo import export_predictor

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def make_sides(name, batch, size, top_k):
  """{side: runs it once} of one network with the same weights in every form, folded Flax first."""
  raw = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
  images = np.asarray(normalize(raw, IMAGENET["mean"], IMAGENET["std"], np.float32))
  nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
  labels = np.zeros(batch, np.int64)
  flax = Flax(name, nchw, labels, top_k)
  model = pst_jax.create_model(name, top_k=top_k)
  network, variables = pst_jax.fold_batch_norm(model, flax.variables)
  options = {"compiler_options": pst_jax.compiler_options()}
  folded = jax.jit(network.apply, **options)
  classifier = Classifier(network, variables, {"image_size": size, **IMAGENET})
  file = export_predictor(classifier).serialize()
  exported = jax.jit(jax.export.deserialize(file).call, **options)
  sides = {
    "Flax, folded": lambda: jax.block_until_ready(folded(variables, images)),
    "Flax, not folded": flax.inference,
    "Flax, folded, exported file": lambda: jax.block_until_ready(exported(raw)),
  }
  state_dict = pst_jax.convert.to_torch(name, flax.variables)
  for layout, memory_format in LAYOUTS.items():
    twin = PyTorch(name, state_dict, nchw, labels, top_k, memory_format)
    twin.model = pst_jax.torch.fold_batch_norm(twin.model)
    sides[f"PyTorch, folded, {layout}"] = twin.inference
  return sides


def main():
  options = begin(__doc__, batches=[1, 8], top_k=8)
  print(f"{'model':12} {'batch':>5} {'other side':30} {'folded':>9} {'other':>9}  ratio")
  for name in options.models:
    for batch in options.batches:
      sides = make_sides(name, batch, options.size, options.top_k)
      expected = sides["PyTorch, folded, NCHW"]()
      for side, run in sides.items():
        check_agreement(np.asarray(run()), expected, f"{name}, {side}")
      folded = sides.pop("Flax, folded")
      for other, run in sides.items():
        ours, theirs, ratio = measure(folded, run, options.repeats)
        row = f"{name:12} {batch:5} {other:30} {ours:8.3f}s {theirs:8.3f}s  {ratio:5.2f}"
        print(row, flush=True)


if __name__ == "__main__":
  main()
