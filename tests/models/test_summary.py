import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import pst_jax
from pst_jax.models import summarize


@functools.cache
def full_size(name, **options):
  return summarize(pst_jax.create_model(name, **options), depth=3)


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    # The authors' networks.
    ("r18-cls-pst", 19_698_632),
    ("r50-cls-pst", 29_260_488),
    ("r101-cls-pst", 54_423_368),
    ("yolo11n-cls-pst", 4_020_072),
    ("yolo11s-cls-pst", 11_529_928),
    ("yolo11m-cls-pst", 17_685_320),
    # torchvision's documentation of its weights.
    ("resnet18", 11_689_512),
    ("resnet34", 21_797_672),
    ("resnet50", 25_557_032),
    ("resnet101", 44_549_160),
  ],
)
def test_parameters_are_the_known_ones(name, parameters):
  assert full_size(name).parameters == parameters


@pytest.mark.parametrize(
  ("name", "multiply_adds"),
  # torchvision's documentation of its weights, "GFLOPS", at 224x224.
  [("resnet18", 1.814), ("resnet34", 3.664), ("resnet50", 4.089), ("resnet101", 7.801)],
)
def test_flops_are_twice_the_known_multiply_adds(name, multiply_adds):
  assert full_size(name).flops / 2e9 == pytest.approx(multiply_adds, abs=5e-4)


@pytest.mark.parametrize(
  ("name", "entries", "gigaflops"),
  [
    # The entries of the authors' checkpoints, with the 16 fixed numbers of the bins, and the GFLOPs
    # of convolutions and attention at 640 pixels, counted from them by hand.
    ("yolo11n-pst", 2_617_232, 6.40 + 2.46),
    ("yolo11s-pst", 9_320_064, 21.02 + 4.92),
    pytest.param("yolo11m-pst", 20_176_832, 65.90 + 9.18, marks=pytest.mark.slow),
    ("r18-pst", 16_487_664, 42.74 + 1.80),
    pytest.param("r50-pst", 26_049_520, 71.26 + 1.80, marks=pytest.mark.slow),
    pytest.param("r101-pst", 50_276_608, 139.24 + 3.60, marks=pytest.mark.slow),
    ("yolo11n", 2_624_080, None),
    pytest.param("yolo11s", 9_458_752, None, marks=pytest.mark.slow),
    pytest.param("yolo11m", 20_114_688, None, marks=pytest.mark.slow),
  ],
)
def test_detectors_have_the_known_parameters_and_flops(name, entries, gigaflops):
  summary = summarize(pst_jax.create_model(name), 640)
  assert summary.parameters + 16 == entries
  if gigaflops is not None:
    assert summary.flops / 1e9 == pytest.approx(gigaflops, rel=5e-3)


def test_modules_inside_a_module_add_up_to_it():
  costs = {path: (n, flops) for path, n, flops in full_size("resnet18_pst").modules}
  inside = [cost for path, cost in costs.items() if path[:-1] == ("neck",)]
  assert tuple(map(sum, zip(*inside, strict=True))) == costs["neck",]
  assert {path for path in costs if len(path) == 1} == {("backbone",), ("neck",), ("head",)}


def test_modules_come_in_the_order_they_run():
  paths = [module.path for module in full_size("resnet18_pst").modules]
  stages = [("backbone", name) for name in ("stem", "stage1", "stage2", "stage3", "stage4")]
  assert [path for path in paths if len(path) == 2][:5] == stages
  assert paths[:2] == [(), ("backbone",)]
  assert paths.index(("backbone",)) < paths.index(("neck",)) < paths.index(("head",))


@pytest.mark.parametrize(
  ("module", "multiply_adds"),
  [
    (("backbone", "stem"), 112 * 112 * 64 * 7 * 7 * 3),
    # 14x14 queries, 7x7 coarse tokens, 128 channels: q, kv, proj, two products of the attention
    # and the depthwise 7x7.
    (
      ("neck", "pst", "block0", "attn"),
      128 * (196 * 128 + 49 * 256 + 196 * 128 + 2 * 196 * 49 + 49 * 7 * 7),
    ),
    (("head", "linear"), 1280 * 1000),
  ],
)
def test_flops_of_a_module_are_those_counted_by_hand(module, multiply_adds):
  summary = summarize(pst_jax.create_model("resnet18_pst"), depth=4)
  costs = {path: flops for path, _, flops in summary.modules}
  assert costs[module] == 2 * multiply_adds


def test_the_fine_branch_costs_its_scores_projection_and_attention():
  dim, heads, queries, coarse, children = 32, 4, 196, 49, 32
  scores = heads * coarse * dim
  projection = heads * children * 128 * 2 * dim
  attention = 2 * heads * queries * children * dim
  gate = heads * queries * 2 * dim * dim
  difference = full_size("resnet18_pst", top_k=8).flops - full_size("resnet18_pst").flops
  assert difference == 2 * (scores + projection + attention + gate)


def test_remat_and_equal_implementations_change_no_count():
  expected = full_size("resnet18_pst")
  assert full_size("resnet18_pst", remat=True) == expected
  for implementation in ("einsum", "dot_product", "pallas"):
    assert full_size("resnet18_pst", coarse_implementation=implementation) == expected


def test_blocked_attention_counts_every_block():
  # 8 blocks of 254 queries for 2025 of them; 23x23 tokens, 128 channels
  def flops(implementation):
    model = pst_jax.create_model("resnet18_pst", coarse_implementation=implementation)
    return summarize(model, image_size=720, depth=0).flops

  assert flops("blocked") - flops("einsum") == 2 * 2 * 7 * 529 * 128


def test_the_largest_branch_of_a_choice_counts():
  class Choice(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = x.reshape(1, -1)
      kernel = self.param("kernel", nn.initializers.ones, (x.shape[1], 5))
      return jax.lax.platform_dependent(
        x, cpu=lambda x: x @ kernel[:, :1] * jnp.ones(5), default=lambda x: x @ kernel
      )

  assert summarize(Choice(), 8).flops == 2 * 8 * 8 * 3 * 5


def test_the_image_may_be_of_any_shape():
  model = pst_jax.create_model("resnet18", num_classes=1)
  tall = summarize(model, (64, 32), depth=1)
  square = summarize(model, 32, depth=1)
  backbone = [summary.modules[1].flops for summary in (tall, square)]
  assert tall.image_size == (64, 32)
  assert backbone[0] == 2 * backbone[1]


def test_a_model_whose_selection_needs_a_key_is_counted_too():
  model = pst_jax.create_model("resnet18_pst", top_k=8, selection=pst_jax.ops.select_gumbel)
  assert summarize(model, depth=0).flops == full_size("resnet18_pst", top_k=8).flops


def test_the_table_names_its_unit_and_every_module():
  text = str(full_size("resnet18_pst"))
  assert "2 x the multiply-adds" in text.splitlines()[0]
  assert "224x224" in text.splitlines()[0]
  row = next(line.split() for line in text.splitlines() if line.strip().startswith("stem"))
  assert row == ["stem", "9,536", "0.236", "6.1%"]
  assert len(text.splitlines()) == 2 + len(full_size("resnet18_pst").modules)


def test_depth_limits_the_modules():
  summary = summarize(pst_jax.create_model("resnet18"), depth=0)
  assert [module.path for module in summary.modules] == [()]


def test_an_image_too_small_is_refused():
  with pytest.raises(ValueError, match="20x20 pixels are too small"):
    summarize(pst_jax.create_model("resnet18"), 20)


def test_a_depth_below_0_is_refused():
  with pytest.raises(ValueError, match="depth is -1, but it must be a whole number from 0"):
    summarize(pst_jax.create_model("resnet18"), depth=-1)
