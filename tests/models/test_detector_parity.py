"""The detectors against what the authors' implementation computed."""

import functools

import numpy as np
import pytest
from support import golden_values
from support.detectors import detector_state_dict
from support.quick_jit import quick_jit

import pst_jax
from pst_jax import detection

PST = ["yolo11n-pst", "yolo11s-pst", "yolo11m-pst", "r18-pst", "r50-pst", "r101-pst"]
CONTROLS = ["yolo11n", "yolo11s", "yolo11m"]
QUICK = ("yolo11n-pst", "r18-pst", "yolo11n")
# One float32 sum in another order moves the maps of r101-pst by 1e-3 of their deviation.
DEEP = {"r101-pst": 5e-3}


def golden(name):
  return golden_values.arrays("detectors" if name in PST else "yolo11")


def top_ks(name):
  return [top_k for top_k in (0, 4) if f"{name}/decoded_k{top_k}" in golden(name)]


def cases():
  for name in PST + CONTROLS:
    marks = () if name in QUICK else pytest.mark.slow
    for top_k in top_ks(name):
      yield pytest.param(name, top_k, marks=marks, id=f"{name}-{top_k}")


@functools.cache
def variables(name):
  return pst_jax.convert.from_torch(name, detector_state_dict(name))


@functools.cache
def outputs(name):
  """{top_k: (maps, boxes, scores)}, by one program, which computes the backbone once."""
  images = golden_values.network_input(name, (1, 3, 128, 160))
  model = pst_jax.create_model(name)

  def run(variables):
    found = {top_k: model.clone(top_k=top_k).apply(variables, images) for top_k in top_ks(name)}
    return {top_k: (maps, *detection.decode(maps)) for top_k, maps in found.items()}

  return quick_jit(run)(variables(name))


@pytest.mark.parametrize(("name", "top_k"), cases())
def test_a_detector_gives_the_authors_maps_boxes_and_scores(name, top_k):
  (maps, boxes, scores), wanted = outputs(name)[top_k], golden(name)
  for i, level in enumerate(maps):
    if f"{name}/level{i}_k{top_k}" in wanted:
      expected = golden_values.nhwc(wanted[f"{name}/level{i}_k{top_k}"])
      assert golden_values.difference(level, expected) <= 5e-4
  expected = wanted[f"{name}/decoded_k{top_k}"].transpose(0, 2, 1)
  centre, size = np.split(expected[..., :4], 2, axis=-1)
  corners = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
  assert golden_values.difference(boxes, corners) <= DEEP.get(name, 1e-4)
  assert np.abs(scores - expected[..., 4:]).max() <= DEEP.get(name, 5e-5)
