import numpy as np
import pytest
import torch
from support import golden_values

from pst_jax.torch import PST, PSTBlock, PyramidSparseAttention, create_model, set_top_k
from pst_jax.torch.layers import child_indices, select_tokens, split_heads

CASES = {
  "psattn": lambda: PyramidSparseAttention(64, 2),
  "psattn_rect": lambda: PyramidSparseAttention(96, 3),
  "psattn_block": lambda: PSTBlock(64, 2, mlp_ratio=2.0),
  "pst": lambda: PST(48, 80, 128, num_blocks=2),
  "pst_n1_wide": lambda: PST(64, 64, 64, mlp_ratio=1.5, expansion=1.0),
  "pst_eps1e-3": lambda: PST(48, 80, 64, epsilon=1e-3, momentum=0.03),
}
OUTPUTS = [key for key in golden_values.arrays("modules") if "/out_k" in key]


def with_golden_weights(case):
  module = CASES[case]().eval()
  values = golden_values.state_dict(case)
  module.load_state_dict({entry: torch.from_numpy(value) for entry, value in values.items()})
  return module


@pytest.mark.parametrize("case", CASES)
def test_module_entries_are_the_manifest(case):
  entries = [(entry, tuple(value.shape)) for entry, value in CASES[case]().state_dict().items()]
  assert entries == golden_values.manifest(case)


@pytest.mark.parametrize("key", OUTPUTS)
def test_module_output_is_the_golden_one(key):
  case, top_k = key.split("/out_k")
  golden = golden_values.arrays("modules")
  x, upper = (torch.from_numpy(golden[f"{case}/in{i}"]) for i in (0, 1))
  module = set_top_k(with_golden_weights(case), int(top_k))
  with torch.no_grad():
    out = module(x, upper)
  assert golden_values.difference(out, golden[key]) <= 1e-4


def attention_by_loops(module, x, upper):
  """PyramidSparseAttention of one image as its definition reads: one head and query at a time."""
  heads, (_, channels, height, width), (rows, columns) = module.num_heads, x.shape, upper.shape[2:]
  dim = channels // heads
  q = module.q(x)[0].reshape(heads, dim, -1).mT
  k, v = module.kv(upper)[0].reshape(heads, 2 * dim, -1).mT.split(dim, -1)
  k_fine, v_fine = module.kv(x)[0].reshape(heads, 2 * dim, -1).mT.split(dim, -1)
  out = torch.empty(heads, height * width, dim)
  for h in range(heads):
    scores = q[h] @ k[h].T / dim**0.5
    best = scores.mean(0).argsort(descending=True)[: module.top_k].tolist()
    children = [
      (2 * (token // columns) + below) * width + 2 * (token % columns) + right
      for token in best
      for below in (0, 1)
      for right in (0, 1)
      if 2 * (token // columns) + below < height and 2 * (token % columns) + right < width
    ]
    coarse = scores.softmax(-1) @ v[h]
    fine = (q[h] @ k_fine[h, children].T / dim**0.5).softmax(-1) @ v_fine[h, children]
    weight, bias = module.gate_conv1d.weight[:, :, 0], module.gate_conv1d.bias
    g = torch.sigmoid(torch.cat((coarse, fine), -1) @ weight.T + bias)
    out[h] = g * fine + (1 - g) * coarse
  position = torch.nn.functional.interpolate(
    module.pe(v.mT.reshape(1, channels, rows, columns)), (height, width), mode="bilinear"
  )
  return module.proj(out.mT.reshape(1, channels, height, width) + position)


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 5), (7, 5)])
def test_fine_branch_equals_its_definition_on_odd_maps_too(size):
  module = set_top_k(with_golden_weights("psattn"), 3)
  generator = torch.Generator().manual_seed(0)
  x = torch.randn(1, 64, *size, generator=generator)
  upper = torch.randn(1, 64, *((side + 1) // 2 for side in size), generator=generator)
  with torch.no_grad():
    assert golden_values.difference(module(x, upper), attention_by_loops(module, x, upper)) <= 1e-4


def test_children_of_the_last_token_of_an_odd_map_are_one():
  index, inside = child_indices(torch.tensor([[[0, 5]]]), height=3, width=5, coarse_width=3)
  assert index[inside].tolist() == [0, 1, 5, 6, 14]


def test_tokens_are_those_of_the_whole_score_matrix():
  generator = torch.Generator().manual_seed(0)
  q, k = (torch.randn(2, 3, n, 32, generator=generator) for n in (48, 12))
  expected = (q @ k.mT).mean(2).topk(5).indices
  assert select_tokens(q, k, 5).equal(expected)


def test_heads_own_consecutive_channels():
  x = torch.arange(8.0).reshape(1, 8, 1, 1)
  assert split_heads(x, 2).squeeze().tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_gate_starts_at_one_half():
  module = PyramidSparseAttention(64, 2)
  coarse, fine = torch.zeros(1, 2, 6, 32), torch.ones(1, 2, 6, 32)
  assert module._gate(fine, coarse).unique().tolist() == [0.5]


def test_every_convolution_of_a_block_starts_narrow():
  block = PSTBlock(64, 2)
  stds = [p.std().item() for name, p in block.named_parameters() if name.endswith("conv.weight")]
  np.testing.assert_allclose(stds, 0.02, rtol=0.1)


def test_bfloat16_gives_bfloat16():
  module = PST(48, 80, 64, top_k=2).bfloat16()
  x, upper = torch.zeros(1, 48, 8, 8).bfloat16(), torch.zeros(1, 80, 4, 4).bfloat16()
  assert module(x, upper).dtype == torch.bfloat16


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda: PyramidSparseAttention(64, 3), "64 channels .* 3 heads"),
    (lambda: PST(48, 80, 100), "50 channels .* multiple of 32"),
    (
      lambda: PST(8, 8, 64, top_k=17)(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 4, 4)),
      "top_k is 17 .* only 16 tokens",
    ),
    (
      lambda: PST(8, 8, 64)(torch.zeros(1, 8, 9, 8), torch.zeros(1, 8, 4, 4)),
      "4x4 and the fine map 9x8; pass an upper map of 5x4",
    ),
    (lambda: create_model("resnet19"), "'resnet19' is unknown: did you mean resnet1"),
    (lambda: create_model("resnet18", stem="tiny"), "stem 'tiny' is unknown"),
  ],
)
def test_a_mistake_is_told_in_one_sentence(call, words):
  with pytest.raises(ValueError, match=words):
    call()
