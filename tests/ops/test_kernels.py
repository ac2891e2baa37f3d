"""The Pallas kernels, interpreted, against float64; and compiled by the real TPU compiler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec, SingleDeviceSharding
from support.quick_jit import quick_jit

from pst_jax import ops
from pst_jax.ops.kernels.choice import FORMS, choose

SHAPES = {  # batch, queries, tokens, heads, dim
  "no multiples of a block": (2, 300, 77, 4, 32),
  "several blocks of queries": (1, 520, 140, 2, 32),
  "several chunks of tokens": (1, 130, 1100, 1, 32),
  "one token": (1, 64, 1, 2, 32),
  "one query": (2, 1, 5, 4, 32),
  "one head": (1, 100, 30, 1, 32),
  "whole blocks": (1, 256, 128, 4, 32),
  "two groups of heads": (1, 130, 129, 8, 32),
  "heads that fill no group": (2, 50, 20, 6, 32),
  "odd maps": (1, 9 * 11, 5 * 6, 4, 32),
  "wide heads": (1, 40, 12, 2, 64),
  "heads of no power of two": (1, 9, 9, 3, 20),
  "the widest heads": (1, 33, 17, 2, 128),
}
BY_NAME = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
einsum, pallas = (
  functools.partial(ops.coarse_attention, implementation=name) for name in ("einsum", "pallas")
)


def inputs(batch, queries, tokens, heads, dim, dtype=np.float64, largest=None):
  """Queries, keys, values, and a direction for gradients."""
  rng = np.random.default_rng(queries)
  rows = [queries, tokens, tokens, queries]
  values = [rng.normal(size=(batch, count, heads, dim)) for count in rows]
  if largest:
    values = [largest * x / np.abs(x).max() for x in values[:3]] + values[3:]
  return [jnp.asarray(x, dtype) for x in values]


def all_results(attention, q, k, v, direction):
  """The output and three gradients."""
  out, pull = jax.vjp(attention, q, k, v)
  return out, *pull(direction.astype(out.dtype))


@BY_NAME
def test_output_and_gradients_are_those_of_float64(shape):
  with jax.enable_x64(True):
    found, expected = (
      quick_jit(functools.partial(all_results, form))(*inputs(*shape)) for form in (pallas, einsum)
    )
    for ours, theirs in zip(found, expected, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("shape", ["no multiples of a block", "two groups of heads", "one token"])
def test_float32_is_as_near_to_float64_as_einsum_is(shape):
  with jax.enable_x64(True):
    exact = all_results(einsum, *inputs(*SHAPES[shape]))
  given = inputs(*SHAPES[shape], dtype=np.float32)
  ours, theirs = (quick_jit(functools.partial(all_results, f))(*given) for f in (pallas, einsum))
  for mine, other, value in zip(ours, theirs, exact, strict=True):
    assert mine.dtype == np.float32
    assert np.abs(mine - value).max() <= 2 * np.abs(other - value).max() + 1e-5


@pytest.mark.parametrize("shape", ["no multiples of a block", "several chunks of tokens"])
def test_bfloat16_rounds_and_no_more(shape):
  given = inputs(*SHAPES[shape], dtype=jnp.bfloat16)
  with jax.enable_x64(True):
    exact = all_results(einsum, *(jnp.asarray(np.asarray(x), np.float64) for x in given))
  found = quick_jit(functools.partial(all_results, pallas))(*given)
  for ours, value in zip(found, exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    error = np.abs(np.asarray(ours, np.float64) - value).max() / np.abs(value).max()
    assert error < 2**-6


def test_huge_values_choose_one_token_each():
  given = inputs(1, 150, 40, 2, 32, dtype=np.float32, largest=1e4)
  found = quick_jit(functools.partial(all_results, pallas))(*given)
  scores = np.einsum("bnhd,bmhd->bhnm", *(np.asarray(x, np.float64) for x in given[:2]))
  chosen = np.take_along_axis(
    np.moveaxis(np.asarray(given[2]), 2, 1), scores.argmax(-1)[..., None], axis=2
  )
  np.testing.assert_allclose(found[0], np.moveaxis(chosen, 1, 2), rtol=1e-6)
  assert all(np.isfinite(x).all() for x in found)


def test_under_vmap_remat_and_shard_map_the_results_are_the_same():
  given = inputs(8, 40, 10, 4, 32, dtype=np.float32)
  mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
  part = PartitionSpec("data")
  wrapped = {
    "vmap": jax.vmap(lambda *each: pallas(*(x[None] for x in each))[0]),
    "remat": jax.checkpoint(pallas),
    "shard_map": jax.shard_map(pallas, mesh=mesh, in_specs=part, out_specs=part, check_vma=False),
  }
  expected = quick_jit(functools.partial(all_results, pallas))(*given)
  for name, attention in wrapped.items():
    found = quick_jit(functools.partial(all_results, attention))(*given)
    for ours, theirs in zip(found, expected, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("tokens", "dim"), [(9000, 32), (10, 160)])
def test_what_does_not_fit_is_said(tokens, dim):
  with pytest.raises(ValueError, match=rf"{tokens} tokens.*{dim} wide.*choose.*blocked"):
    pallas(*inputs(1, 2, tokens, 1, dim, dtype=np.float32)[:3])


def test_auto_takes_small_forms_for_small_maps_and_none_beyond_its_limit():
  assert {choose(platform, 196, 49) for platform in FORMS} == {"einsum"}
  assert choose("tpu", 6400, 1600) == "pallas"
  assert choose("cpu", 6400, 1600) == "blocked"
  assert choose("tpu", 40_000, 10_000) == "blocked"


def test_auto_is_the_form_of_the_platform_that_is_compiled_for():
  rows = [jax.ShapeDtypeStruct((1, count, 1, 32), jnp.float32) for count in (6400, 1600, 1600)]
  lowered = jax.jit(ops.coarse_attention).trace(*rows)
  assert "tpu_custom_call" in lowered.lower(lowering_platforms=("tpu",)).as_text()
  assert "tpu_custom_call" not in lowered.lower(lowering_platforms=("cpu",)).as_text()


def test_auto_is_exported_for_any_batch_and_several_platforms():
  (batch,) = jax.export.symbolic_shape("batch")
  rows = [jax.ShapeDtypeStruct((batch, n, 2, 32), jnp.float32) for n in (900, 400, 400)]
  platforms = ("cpu", "cuda", "tpu")
  exported = jax.export.export(jax.jit(ops.coarse_attention), platforms=platforms)(*rows)
  q, k, v, _ = inputs(3, 900, 400, 2, 32, dtype=np.float32)
  np.testing.assert_allclose(exported.call(q, k, v), einsum(q, k, v), atol=1e-5)


def test_pallas_says_that_it_cannot_be_exported_for_any_batch():
  (batch,) = jax.export.symbolic_shape("batch")
  rows = [jax.ShapeDtypeStruct((batch, 9, 2, 32), jnp.float32)] * 3
  with pytest.raises(ValueError, match="symbolic batch: choose the implementation auto"):
    jax.export.export(jax.jit(pallas))(*rows)


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_no_program_for_a_chip_has_an_array_of_queries_times_tokens(topology):
  pytest.importorskip("libtpu", reason="needs the TPU compiler (pip install libtpu)")
  from train.planning.hlo_cost import read_program
  from train.planning.hlo_text import parse
  from train.planning.topologies import compiler_devices, find_slice

  queries, tokens = 6400, 1600
  device = SingleDeviceSharding(compiler_devices(find_slice(topology))[0])
  given = [
    jax.ShapeDtypeStruct((1, count, 4, 32), jnp.bfloat16, sharding=device)
    for count in (queries, tokens, tokens, queries)
  ]
  step = functools.partial(all_results, ops.coarse_attention)
  compiled = jax.jit(step).lower(*given).compile()
  entry = parse(compiled.as_text())
  largest = max(array.bytes for each in entry.instructions for array in each.arrays)
  assert largest < queries * tokens
  assert compiled.memory_analysis().temp_size_in_bytes < queries * tokens
  flops = read_program(entry).total("matrix_flops")
  assert flops == (2 + 5) * 2 * 4 * queries * tokens * 32
