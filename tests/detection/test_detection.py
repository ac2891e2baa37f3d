"""The functions of detection: types, padding, transformations, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.detectors import box_targets
from support.quick_jit import quick_jit

from pst_jax import detection, ops
from pst_jax.ops.boxes import complete_iou, pairwise_iou

SIZE, CLASSES, BATCH = 64, 5, 4


def random_maps(dtype=np.float32, batch=BATCH, seed=0):
  rng = np.random.default_rng(seed)
  sides = [SIZE // stride for stride in detection.STRIDES]
  shapes = [(batch, side, side, 4 * detection.BINS + CLASSES) for side in sides]
  return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


# Boxes


@pytest.mark.parametrize(
  ("a", "b", "expected"),
  [
    ((10, 10, 50, 60), (20, 15, 70, 55), 0.3910197),
    ((0, 0, 10, 10), (20, 20, 30, 40), -0.4116895),
  ],
)
def test_the_complete_iou_of_known_boxes(a, b, expected):
  boxes = [jnp.array(box, jnp.float32) for box in (a, b)]
  np.testing.assert_allclose(complete_iou(*boxes), expected, rtol=1e-6)


def test_the_weight_of_the_aspect_ratios_is_a_constant_for_the_gradient():
  a, b = jnp.array([10.0, 10, 50, 60]), jnp.array([20.0, 15, 70, 45])
  gradient = jax.grad(complete_iou)(a, b)

  def with_constant(a, weight):
    angle = jnp.arctan((b[2] - b[0]) / (b[3] - b[1])) - jnp.arctan((a[2] - a[0]) / (a[3] - a[1]))
    hull = jnp.maximum(a[2:], b[2:]) - jnp.minimum(a[:2], b[:2])
    distance = jnp.sum(jnp.square(a[:2] + a[2:] - b[:2] - b[2:])) / 4
    aspect = 4 / jnp.pi**2 * angle**2
    return pairwise_iou(a, b) - distance / jnp.sum(hull**2) - weight * aspect, aspect

  aspect = with_constant(a, 0.0)[1]
  weight = aspect / (aspect - pairwise_iou(a, b) + 1)
  expected = jax.grad(lambda a: with_constant(a, weight)[0])(a)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_equal_bins_are_seven_and_a_half_strides():
  maps = [jnp.zeros((1, 1, 1, 64 + CLASSES))] * 3
  boxes, scores = detection.decode(maps)
  for i, stride in enumerate(detection.STRIDES):
    np.testing.assert_allclose(boxes[0, i], stride * np.array([-7.0, -7.0, 8.0, 8.0]), rtol=1e-6)
  assert np.all(np.asarray(scores) == 0.5)


# Types and padding


@pytest.mark.parametrize(("dtype", "wide"), [("bfloat16", "float32"), ("float64", "float64")])
def test_everything_is_computed_in_float32_or_float64(dtype, wide):
  with jax.enable_x64(dtype == "float64"):
    maps, targets = random_maps(jnp.dtype(dtype)), box_targets(BATCH, SIZE)
    boxes, scores = jax.eval_shape(detection.decode, maps)
    losses = jax.eval_shape(detection.loss, maps, targets)
    assert {x.dtype for x in (boxes, scores, *losses)} == {jnp.dtype(wide)}


def test_losses_of_bfloat16_maps_are_those_of_the_same_numbers_in_float32():
  maps, targets = random_maps(jnp.bfloat16), box_targets(BATCH, SIZE)
  wide = [each.astype(jnp.float32) for each in maps]
  loss = quick_jit(detection.loss)
  np.testing.assert_array_equal(loss(maps, targets).total, loss(wide, targets).total)


@pytest.mark.parametrize("padding", [0, 1, 40])
def test_padding_changes_nothing_whatever_it_holds(padding):
  maps = random_maps()
  plain = box_targets(BATCH, SIZE, padding=0)
  filler = jnp.full((BATCH, padding), 3)
  padded = detection.Targets(
    jnp.concatenate([plain.boxes, jnp.full((BATCH, padding, 4), 9.0)], axis=1),
    jnp.concatenate([plain.classes, 1000 * filler], axis=1),
    jnp.concatenate([plain.valid, filler < 0], axis=1),
  )
  assign = quick_jit(detection.assign)
  for a, b in zip(assign(maps, padded), assign(maps, plain), strict=True):
    np.testing.assert_array_equal(a, b)


def test_another_number_of_boxes_compiles_nothing_new():
  step = jax.jit(jax.grad(lambda maps, targets: detection.loss(maps, targets).total))
  for count in (0, 1, 7):
    step(random_maps(), box_targets(BATCH, SIZE, count=count, padding=8 - count))
  assert step._cache_size() == 1


def test_boxes_beyond_one_chunk_are_assigned_too():
  maps, targets = random_maps(), box_targets(BATCH, SIZE, count=25, padding=0)
  reverse = jax.tree.map(lambda x: x[:, ::-1], targets)
  assigned, other = (quick_jit(detection.assign)(maps, each) for each in (targets, reverse))
  assert assigned.index.max() > 10
  np.testing.assert_array_equal(assigned.foreground, other.foreground)
  index = np.where(other.foreground, 24 - other.index, 0)
  np.testing.assert_array_equal(assigned.index, index)


# Sums over parts


def test_terms_of_parts_add_up_to_the_loss_of_the_whole():
  with jax.enable_x64(True):
    maps, targets = random_maps(np.float64), box_targets(BATCH, SIZE)
    losses = quick_jit(detection.loss)(maps, targets)
    terms = quick_jit(detection.loss_terms)
    halves = (
      terms(*jax.tree.map(lambda x, part=part: x[part], (maps, targets)))
      for part in (slice(0, 2), slice(2, 4))
    )
    total = jax.tree.map(jnp.add, *halves)
    items = np.array(total[:3]) / max(total.weight, 1)
    np.testing.assert_allclose(items, losses[:3], rtol=1e-12)
    np.testing.assert_allclose(BATCH * items.sum(), losses.total, rtol=1e-12)


def test_every_image_is_assigned_alone():
  maps, targets = random_maps(), box_targets(BATCH, SIZE)
  whole = quick_jit(detection.assign)(maps, targets)

  def of_one(maps, targets):
    one = detection.assign([x[None] for x in maps], jax.tree.map(lambda x: x[None], targets))
    return jax.tree.map(lambda x: x[0], one)

  for a, b in zip(whole, quick_jit(jax.vmap(of_one))(maps, targets), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_no_gradient_of_a_batch_without_boxes_is_nan():
  targets = box_targets(BATCH, SIZE, count=0, padding=3)
  step = quick_jit(jax.grad(lambda maps: detection.loss(maps, targets).total))
  gradients = step(random_maps())
  assert all(np.all(np.isfinite(each)) for each in gradients)
  assert not any(np.any(each[..., :64]) for each in gradients)


def test_an_image_is_assigned_with_little_memory_whatever_the_boxes():
  def most_at_a_time(count):
    maps = random_maps(batch=2)
    targets = box_targets(2, SIZE, count=count, padding=0)
    return jax.jit(detection.assign).lower(maps, targets).compile().memory_analysis()

  few, many = (most_at_a_time(count).temp_size_in_bytes for count in (10, 200))
  assert many < 1.5 * few


# Suppression


def found_by_hand(boxes, scores, classes, threshold):
  """Greedy suppression in plain Python: indices in falling score."""
  order, kept = list(np.argsort(-scores, kind="stable")), []
  while order:
    best = order.pop(0)
    kept.append(best)
    order = [
      i
      for i in order
      if classes[i] != classes[best] or pairwise_iou(boxes[i], boxes[best]) <= threshold
    ]
  return kept


def test_suppression_is_the_greedy_one():
  boxes = np.asarray(box_targets(1, 100, count=40, padding=0).boxes)
  scores = np.random.default_rng(0).uniform(size=(1, 40, 2)).astype(np.float32)
  found = detection.non_max_suppression(boxes, scores, iou_threshold=0.3, max_detections=50)
  best, classes = scores[0].max(-1), scores[0].argmax(-1)
  kept = [i for i in found_by_hand(boxes[0], best, classes, 0.3) if best[i] > 0.25]
  assert found.valid.sum() == len(kept)
  np.testing.assert_array_equal(found.boxes[0][: len(kept)], boxes[0][kept])
  np.testing.assert_array_equal(found.classes[0][: len(kept)], classes[kept])
  assert found.boxes.shape == (1, 50, 4)


def test_every_image_of_a_batch_is_searched():
  # Nothing suppresses anything: as many as fit are found in the last image as in the first.
  corner = np.arange(64, dtype=np.float32)[None, :, None] * 10
  boxes = np.broadcast_to(np.concatenate([corner, corner, corner + 5, corner + 5], -1), (9, 64, 4))
  found = detection.non_max_suppression(boxes, np.full((9, 64, 1), 0.5), max_detections=30)
  assert np.all(found.valid)
  np.testing.assert_array_equal(found.boxes[-1], boxes[0, :30])


def test_many_labels_of_a_box_are_found_and_few_candidates_are_looked_at(monkeypatch):
  from pst_jax.detection import suppression

  boxes, scores = np.array([[[0.0, 0, 9, 9]]]), np.array([[[0.3, 0.9, 0.1, 0.5]]])
  found = detection.non_max_suppression(boxes, scores, multi_label=True)
  assert found.classes[0][: found.valid.sum()].tolist() == [1, 3, 0]
  monkeypatch.setattr(suppression, "MAX_CANDIDATES", 2)
  found = detection.non_max_suppression(boxes, scores, multi_label=True)
  assert found.classes[0][: found.valid.sum()].tolist() == [1, 3]


# Mistakes


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"boxes": np.zeros((BATCH, 0, 4))}, r"targets.boxes is \[4, 0, 4\].*pad with valid=False"),
    ({"boxes": np.zeros((2, 5, 4))}, r"targets.boxes is \[2, 5, 4\].*\[4, n, 4\]"),
    ({"classes": np.zeros((BATCH, 3), int)}, r"targets.classes is \[4, 3\].*\[4, 5\]"),
    ({"valid": np.zeros((BATCH,), bool)}, r"targets.valid is \[4\].*\[4, 5\]"),
  ],
)
def test_targets_that_do_not_fit_are_refused(change, words):
  with pytest.raises(ValueError, match=words):
    detection.loss(random_maps(), box_targets(BATCH, SIZE)._replace(**change))


def test_maps_that_are_no_detectors_are_refused():
  with pytest.raises(ValueError, match=r"a detector's are 3 of 64 \+ classes channels"):
    detection.decode([jnp.zeros((1, 8, 8, 64))] * 3)
  with pytest.raises(ValueError, match="a detector's are 3"):
    detection.decode(random_maps()[:2])


# Maps


def test_the_max_filter_is_the_largest_of_each_window():
  x = np.random.default_rng(0).normal(size=(1, 6, 7, 2)).astype(np.float32)
  wide = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), axis=(1, 2))
  np.testing.assert_array_equal(ops.max_filter(x, 5), windows.max(axis=(-1, -2)))


def test_doubling_repeats_every_position():
  x = np.arange(12.0).reshape(1, 2, 3, 2)
  np.testing.assert_array_equal(ops.double_nearest(x), x.repeat(2, axis=1).repeat(2, axis=2))
