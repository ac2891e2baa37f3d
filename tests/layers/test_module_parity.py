"""The modules against what the authors' implementation computed."""

import pytest
from support import golden_values
from support.quick_jit import quick_jit

from pst_jax import convert
from pst_jax.layers import PST, PSTBlock, PyramidSparseAttention

# Case: kind of module for `module_from_torch`, and the module.
CASES = {
  "psattn": ("psattn", PyramidSparseAttention(num_heads=2)),
  "psattn_rect": ("psattn", PyramidSparseAttention(num_heads=3)),
  "psattn_block": ("psattn_block", PSTBlock(num_heads=2, mlp_ratio=2.0)),
  "pst": ("pst", PST(features=128, num_blocks=2)),
  "pst_n1_wide": ("pst", PST(features=64, mlp_ratio=1.5, expansion=1.0)),
  "pst_eps1e-3": ("pst", PST(features=64, epsilon=1e-3, momentum=0.97)),
}
OUTPUTS = [key for key in golden_values.arrays("modules") if "/out_k" in key]


def test_every_case_is_here():
  assert {key.split("/")[0] for key in OUTPUTS} == CASES.keys()


@pytest.mark.parametrize("key", OUTPUTS)
def test_module_output_is_the_authors(key):
  case, top_k = key.split("/out_k")
  golden = golden_values.arrays("modules")
  kind, module = CASES[case]
  variables = convert.module_from_torch(kind, golden_values.state_dict(case))
  x, upper = (golden_values.nhwc(golden[f"{case}/in{i}"]) for i in (0, 1))
  out = quick_jit(module.clone(top_k=int(top_k)).apply)(variables, x, upper)
  assert golden_values.difference(out, golden_values.nhwc(golden[key])) <= 1e-4
