"""Weights of a small network, and a run folder that holds some, made without training."""

import dataclasses

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from support.fill import fill

import pst_jax
from pst_jax.convert import Metadata, Weights, from_torch
from pst_jax.convert.state_dict import network_constants, network_entries

MODEL, OPTIONS = "resnet18_pst", {"num_classes": 3, "stem": "small", "width": 0.125}
PREPROCESSING = {
  "image_size": 16,
  "eval_crop": 0.5,
  "mean": [0.1, 0.2, 0.3],
  "std": [0.4, 0.5, 0.6],
}


def state_dict(name=MODEL, **options):
  """{entry name: array} of a network, without counters."""
  network = pst_jax.create_model(name, **(options or OPTIONS))
  filled = {entry.name: fill(entry.name, entry.shape) for entry in network_entries(network)}
  return filled | network_constants(network)


def weights(**facts):
  network = pst_jax.create_model(MODEL, **OPTIONS)
  facts = {"source": "somewhere", "preprocessing": PREPROCESSING, **facts}
  return Weights(from_torch(network, state_dict()), Metadata(MODEL, OPTIONS, **facts))


def leaves(variables):
  return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}


def same(a, b):
  """Whether two state dicts, or two trees of variables, are equal to the bit, order included."""
  a, b = ({k: np.asarray(v) for k, v in flatten_dict(x).items()} for x in (a, b))
  return list(a) == list(b) and all(
    (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes()) for k in a
  )


def shifted(variables, by):
  flat = flatten_dict(variables)
  return unflatten_dict({path: (leaf + np.float32(by)) for path, leaf in flat.items()})


def save_run(folder, *, top1=(0.5, 0.9, 0.7), keep_ema=True, class_names=("a", "b", "c")):
  """A run folder as the trainer leaves it, with checkpoints of steps 1, 2, 3 and those accuracies.

  The parameters of step n are those of `weights()` plus n, its moving averages plus 10 n.
  """
  import jax

  from train.config import Config, DataConfig, ModelConfig
  from train.config_values import flatten, to_json
  from train.run.checkpoints import Checkpoints

  config = Config(
    run_dir="/home/somebody/runs/mine",
    model=ModelConfig(MODEL, top_k=2, stem="small", width=0.125),
    data=dataclasses.replace(
      DataConfig(dataset="synthetic"),
      image_size=16,
      eval_crop=0.5,
      mean=(0.1, 0.2, 0.3),
      std=(0.4, 0.5, 0.6),
    ),
  )
  folder.mkdir()
  (folder / "config.json").write_text(to_json(config))
  start = weights().variables

  def block(step):
    kind = "ema" if keep_ema else "params"
    facts = {"source": folder.name, "weights": kind, "class_names": class_names}
    return Metadata.of_run(flatten(config), OPTIONS["num_classes"], step=step, **facts)

  with Checkpoints(folder / "checkpoints", keep_latest=len(top1)) as checkpoints:
    for step, accuracy in enumerate(top1, start=1):
      state = {"step": np.int32(step), **shifted(start, step), "opt_state": {"m": np.ones(3)}}
      if keep_ema:
        state["ema"] = shifted(start, 10 * step)
      checkpoints.save(
        step,
        jax.tree.map(jax.numpy.asarray, state),
        best=accuracy,
        metrics={"eval/top1_coarse": accuracy},
        extra={"weights": block(step).to_block(), "config": flatten(config)},
      )
  return folder
