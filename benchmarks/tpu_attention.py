"""Coarse attention as the TPU compiler sees it: cycles, HBM traffic and memory of each form.

    python -m benchmarks.tpu_attention
    python -m benchmarks.tpu_attention --topology v4:2x2x1 --queries 1600 --tokens 400 --forward

Needs the compiler (`pip install libtpu`) and no TPU: nothing runs. bfloat16, forward and backward.
"splash" is JAX's own kernel. Cycles of a kernel are the instruction bundles of one step of its grid
times the steps: without stalls, so a lower bound, as the compiler's estimates of everything else
are. The last column is each form's cycles over the first form's.
"""

import functools
import math
import multiprocessing
import os
import pathlib
import sys
import tempfile
from concurrent import futures

from benchmarks.common import make_parser

FORMS = ["einsum", "blocked", "splash", "pallas"]
SPLASH_BLOCK = 640
HEAD_DIM = 32


def _splash(q, k, v):
  """JAX's splash attention; what pads the tokens to whole tiles is another segment."""
  import jax
  import jax.numpy as jnp
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  queries, tokens, heads = q.shape[1], k.shape[1], q.shape[2]
  padded = -(-tokens // 128) * 128
  block = math.gcd(queries, SPLASH_BLOCK)
  sizes = splash_attention_kernel.BlockSizes(
    *(block, padded, padded),
    block_q_dkv=block,
    block_kv_dkv=padded,
    block_kv_dkv_compute=padded,
    use_fused_bwd_kernel=True,
  )
  full = splash_attention_mask.FullMask((queries, padded))
  kernel = splash_attention_kernel.make_splash_mha(
    mask=splash_attention_mask.MultiHeadMask([full] * heads),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=sizes,
  )
  segments = splash_attention_kernel.SegmentIds(
    jnp.zeros(queries, jnp.int32), (jnp.arange(padded) >= tokens).astype(jnp.int32)
  )
  k, v = (jnp.pad(x, ((0, 0), (0, padded - tokens), (0, 0), (0, 0))) for x in (k, v))
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * q.shape[-1] ** -0.5, k, v))
  out = jax.vmap(lambda *each: kernel(*each, segment_ids=segments))(q, k, v)
  return out.transpose(0, 2, 1, 3)


def measure(form: str, options, folder: str) -> tuple[float, float, float]:
  """(cycles, bytes of HBM traffic, bytes of temporaries); runs in a process of its own."""
  os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
  import jax
  import jax.numpy as jnp
  from jax.sharding import SingleDeviceSharding

  from pst_jax import ops
  from train.planning.hlo_cost import read_program
  from train.planning.hlo_text import parse
  from train.planning.topologies import compiler_devices, find_slice

  place = SingleDeviceSharding(compiler_devices(find_slice(options.topology))[0])

  def array(tokens):
    # As the projections leave them: heads side by side.
    shape = (options.batch, tokens, options.heads * HEAD_DIM)
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

  attend = functools.partial(ops.coarse_attention, implementation=form)
  attend = _splash if form == "splash" else attend

  def forward(*rows):
    heads = (x.reshape(*x.shape[:2], options.heads, HEAD_DIM) for x in rows)
    return attend(*heads).reshape(rows[0].shape)

  def both(d_out, *rows):
    out, pull = jax.vjp(forward, *rows)
    return out, pull(d_out)

  rows = [array(options.queries), array(options.tokens), array(options.tokens)]
  step = forward if options.forward else both
  inputs = rows if options.forward else [rows[0], *rows]
  compiled = jax.jit(step).lower(*inputs).compile()
  program = read_program(parse(compiled.as_text()))
  cycles = program.total("cycles") + _kernel_cycles(pathlib.Path(folder), form, options)
  temporaries = compiled.memory_analysis().temp_size_in_bytes
  return cycles, program.total("hbm_bytes"), temporaries


def _kernel_cycles(folder: pathlib.Path, form: str, options) -> int:
  """Bundles of each kernel's final schedule, which has no loops, times the steps of its grid."""
  from pst_jax.ops.kernels.attention import query_block

  block = query_block(options.queries, options.tokens)
  if form == "splash":
    steps = options.heads * options.queries // math.gcd(options.queries, SPLASH_BLOCK)
  elif form == "pallas":
    steps = -(-options.heads * HEAD_DIM // 128) * -(-options.queries // block)
  else:
    return 0
  bundles = 0
  for path in folder.glob("*final_hlo-static-per-bundle-utilization.txt"):
    if "attention" in path.name or "splash" in path.name:
      lines = path.read_text().split("UTILIZATION:")[1].split("\n")
      bundles += sum(1 for line in lines if line.strip())
  return options.batch * steps * bundles


def main() -> None:
  """Prints the table."""
  parser = make_parser(__doc__)
  add = parser.add_argument
  add("--topology", default="v5e:2x2")
  add("--batch", type=int, default=16)
  add("--queries", type=int, default=6400)
  add("--tokens", type=int, default=1600)
  add("--heads", type=int, default=4)
  add("--forward", action="store_true", help="without the backward pass")
  add("--forms", nargs="+", default=FORMS, choices=[*FORMS, "dot_product"])
  options = parser.parse_args()
  print(
    f"{options.topology}: {options.batch} images of {options.heads} heads of {HEAD_DIM}, "
    f"{options.queries} queries, {options.tokens} tokens"
  )
  print(f"{'':12} {'M cycles':>9} {'HBM GB':>8} {'temp GB':>8}  ratio")
  first = None
  for form in options.forms:
    # The compiler reads its options once in a process.
    with (
      tempfile.TemporaryDirectory() as folder,
      futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
      cycles, moved, temporaries = pool.submit(measure, form, options, folder).result()
    first = first or cycles
    print(
      f"{form:12} {cycles / 1e6:9.2f} {moved / 1e9:8.3f} {temporaries / 1e9:8.3f}"
      f"  {cycles / first:.3f}",
      flush=True,
    )


if __name__ == "__main__":
  sys.exit(main())
