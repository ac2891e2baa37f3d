"""python -m research.gate SOURCE DEST: sets the gates of trained weights, without labels."""

import argparse
import dataclasses
import sys

import numpy as np
from jaxtyping import Float

from pst_jax.commands.source import read as read_source
from pst_jax.errors import UserError, refuse_empty, run_command
from train.evaluate import add_arguments
from train.options import make_parser

DESCRIPTION = """\
A gate joins what a query sees of the coarse map and of the few fine tokens that were opened. Coarse
training leaves it at one half. This sets its numbers so that the two together come closest, by
least squares over images of the evaluation split, to attention over the WHOLE fine map: no label
is read, and nothing else changes. DEST is written as `pst_jax convert` writes it.

  python -m research.gate runs/digits gated.safetensors --top-k 4
  python -m train.evaluate gated.safetensors --dataset digits --data-dir data --split test
"""

ROWS = 8_000
"""Queries of all heads that one gate is fitted to, at most."""
STEPS = 20
RIDGE = 1e-3
"""Pulls the numbers towards 0, a gate of one half, as strongly as so many rows of unit size."""


def _parser() -> argparse.ArgumentParser:
  parser = make_parser("research.gate", description=DESCRIPTION)
  add_arguments(parser)
  output = parser.add_argument_group("calibration")
  output.add_argument("dest", metavar="DEST", help="a .safetensors, .pt or a folder")
  output.add_argument("--images", type=int, default=256, metavar="N", help="default: %(default)s")
  output.add_argument("--force", action="store_true", help="replace what exists")
  return parser


def main(arguments: list[str]) -> None:
  options = _parser().parse_args(arguments)
  refuse_empty(options)
  if options.images < 1:
    raise UserError(f"--images is {options.images}, but it must be 1 or more")
  if options.top_k is None or len(options.top_k) != 1 or options.top_k[0] < 1:
    raise UserError(f"--top-k is {options.top_k}, but one number from 1 is needed")
  if options.selection is not None and len(options.selection) != 1:
    raise UserError(f"--selection is {options.selection}, but one rule is needed")
  # Late, so that --help answers at once.
  from pst_jax.convert.io import check_destination, write
  from research.images import first_images
  from train.evaluation import source

  check_destination(options.dest, force=options.force)
  config = source.run_config(options.source)
  weights = read_source(options.source, options)
  config = source.make_config(options, config, weights)
  dataset = source.open_data(weights, config)
  rule = (options.selection or [config.model.selection])[0]
  network = weights.network(top_k=options.top_k[0], selection=rule)
  images = [each for each, *_ in first_images(options.images, config, dataset, network.dtype)]
  variables, reports = calibrate(network, weights.variables, images)
  for name, (before, after) in reports.items():
    print(f"{name}: mean squared distance {before:.4g} with the gate as it was, {after:.4g} now")
  metadata = dataclasses.replace(weights.metadata, top_k=options.top_k[0], selection=rule)
  write(
    options.dest,
    dataclasses.replace(weights, variables=variables, metadata=metadata),
    force=options.force,
  )
  print(f"written: {options.dest}")


def calibrate(network, variables: dict, images: list) -> tuple[dict, dict]:
  """Variables with new gates, and the distances before and after by the name of the module.

  One PST block after the other, as what the first passes on changes with its gate.
  """
  from flax.traverse_util import flatten_dict, unflatten_dict

  names = [path[1:-1] for path in flatten_dict(variables) if path[-1] == "gate_kernel"]
  # Coarser maps come first: what they pass on is what finer ones fuse.
  reports = {}
  for name in sorted(names, key=lambda path: (path[:-2] != sorted(names)[-1][:-2], path)):
    flat = flatten_dict(variables)
    kernel, bias = ("params", *name, "gate_kernel"), ("params", *name, "gate_bias")
    rows = _examples(network, variables, images, name)
    old = np.concatenate([flat[kernel], flat[bias][None]]).astype(np.float64)
    new = fit(*rows, start=np.zeros_like(old))
    reports["/".join(name)] = _distance(*rows, old), _distance(*rows, new)
    flat[kernel], flat[bias] = (part.astype(flat[kernel].dtype) for part in (new[:-1], new[-1]))
    variables = unflatten_dict(flat)
  return variables, reports


def _examples(network, variables, images, name):
  """Coarse, fine and wanted attention of queries, as [rows, dim] each."""
  import jax
  import jax.numpy as jnp

  from pst_jax import ops
  from research.seen import seen_by_modules, sides

  @jax.jit
  def outputs(images):
    seen = seen_by_modules(network, variables, images)[name]
    parts = ("queries", "keys", "values", "fine_keys", "fine_values", "selected")
    q, k, v, k_fine, v_fine, selected = (seen[part] for part in parts)
    index, inside = ops.child_indices(selected, *sides(k, q))
    opened = (ops.gather_tokens(each, index) for each in (k_fine, v_fine))
    coarse = ops.coarse_attention(q, k, v, implementation="blocked")
    wanted = ops.coarse_attention(q, k_fine, v_fine, implementation="blocked")
    return coarse, ops.fine_attention(q, *opened, inside), wanted

  rng = np.random.default_rng(0)
  parts, most = [], -(-ROWS // len(images))
  for batch in images:
    rows = [np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in outputs(jnp.asarray(batch))]
    chosen = rng.permutation(len(rows[0]))[:most]
    parts.append([each[chosen] for each in rows])
  return [np.concatenate(each) for each in zip(*parts, strict=True)]


def fit(
  coarse: Float[np.ndarray, "rows dim"],
  fine: Float[np.ndarray, "rows dim"],
  wanted: Float[np.ndarray, "rows dim"],
  start: Float[np.ndarray, "2*dim+1 dim"],
) -> Float[np.ndarray, "2*dim+1 dim"]:
  """Kernel and, in the last row, bias for which g * fine + (1 - g) * coarse is nearest to `wanted`.

  g is sigmoid([coarse; fine] kernel + bias). Levenberg and Marquardt's steps (1944, 1963): every
  channel is a small problem of its own, as its gate alone depends on its column.
  """
  inputs = np.concatenate([coarse, fine, np.ones((len(coarse), 1))], axis=1)
  # Of size 1 each, so that one ridge and one damping serve all.
  scale = np.sqrt(np.mean(inputs**2, axis=0)) + 1e-12
  inputs, ridge = inputs / scale, RIDGE * np.eye(inputs.shape[1])
  result = start * scale[:, None]
  for channel in range(coarse.shape[1]):
    step, goal = (x[:, channel] - coarse[:, channel] for x in (fine, wanted))
    unit = np.mean(step**2) + 1e-300
    weights, damping = result[:, channel], 1e-2

    def cost(weights, step=step, goal=goal, unit=unit):
      gate = _sigmoid(inputs @ weights)
      return np.mean((gate * step - goal) ** 2) / unit + weights @ ridge @ weights

    now = cost(weights)
    for _ in range(STEPS):
      gate = _sigmoid(inputs @ weights)
      slopes = inputs * (gate * (1 - gate) * step)[:, None]
      gradient = slopes.T @ (gate * step - goal) / len(step) / unit + ridge @ weights
      curvature = slopes.T @ slopes / len(step) / unit + ridge
      damped = curvature + damping * np.diag(np.diag(curvature))
      tried = weights - np.linalg.solve(damped, gradient)
      then = cost(tried)
      if then < now:
        weights, now, damping = tried, then, damping / 4
      else:
        damping *= 8
    result[:, channel] = weights
  return result / scale[:, None]


def _distance(coarse, fine, wanted, weights) -> float:
  inputs = np.concatenate([coarse, fine, np.ones((len(coarse), 1))], axis=1)
  gate = _sigmoid(inputs @ weights)
  return float(np.mean((gate * fine + (1 - gate) * coarse - wanted) ** 2))


def _sigmoid(x):
  return 0.5 * (1 + np.tanh(0.5 * x))


if __name__ == "__main__":
  run_command(main, sys.argv[1:])
