"""Selection and coarse attention at detection size: time and memory of each implementation.

    python -m benchmarks.attention
    python -m benchmarks.attention --quick    # two repetitions each
    python -m benchmarks.attention --sizes    # from small maps to large: what `auto` takes, why

Fine map 80x80, coarse map 40x40, 4 heads of 32 channels, batch 8, float32. "naive" is the form
with the whole queries x coarse matrix. Every row runs in a fresh process: its time is the median
over repetitions, its memory the peak resident memory of the process minus that of a process that
only holds the inputs, both by getrusage (XLA's own figure is not to be trusted on the CPU).
Ratios are implementation / naive: below 1 is better. With --sizes they are blocked / einsum, for
inference and for the gradients.
"""

import functools
import multiprocessing
import resource
import statistics
from concurrent import futures

from benchmarks.common import make_parser, measure, seconds, tune_allocator

BATCH, HEADS, DIM = 8, 4, 32
TOP_K = 8
BASELINE = "inputs"
# Queries and coarse tokens.
SIZES = [(196, 49), (400, 100), (400, 400), (784, 196), (1600, 400), (6400, 1600)]


def cases():
  """{row: function of (q, k, v)}; queries and coarse tokens are [batch, tokens, heads, dim]."""
  import jax
  import jax.numpy as jnp

  from pst_jax import ops

  def matrix(q, k):
    return jnp.einsum("bnhd,bmhd->bhnm", q, k) / jnp.sqrt(q.shape[-1])

  def naive_selection(q, k, v):
    return jax.lax.top_k(matrix(q, k).mean(2), TOP_K)[1]

  def selection(q, k, v):
    return ops.select_top_k(ops.token_scores(q, k), TOP_K)

  def naive_attention(q, k, v):
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(matrix(q, k)), v)

  def coarse(implementation):
    return lambda q, k, v: ops.coarse_attention(q, k, v, implementation=implementation)

  return {
    BASELINE: lambda q, k, v: (q[0, 0], k[0, 0], v[0, 0]),
    "selection naive": naive_selection,
    "selection mean query": selection,
    "coarse naive": naive_attention,
    **{f"coarse {name}": coarse(name) for name in ops.COARSE_IMPLEMENTATIONS if name != "pallas"},
  }


def run_case(case, side, repeats):
  """One row's seconds, and the peak resident memory of this process in bytes."""
  import jax
  import numpy as np

  import pst_jax

  rng = np.random.default_rng(0)
  shapes = [(BATCH, (side // scale) ** 2, HEADS, DIM) for scale in (1, 2, 2)]
  inputs = [jax.device_put(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
  run = jax.jit(cases()[case], compiler_options=pst_jax.compiler_options())
  jax.block_until_ready(run(*inputs))
  times = [seconds(lambda: jax.block_until_ready(run(*inputs))) for _ in range(repeats)]
  return statistics.median(times), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare(options):
  def in_fresh_process(case):
    # This process must stay small: a child's peak starts at the size of its parent.
    with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
      return pool.submit(run_case, case, options.side, options.repeats).result()

  baseline = in_fresh_process(BASELINE)[1]
  side = options.side
  print(
    f"fine {side}x{side}, coarse {side // 2}x{side // 2}, batch {BATCH}, {HEADS} heads of {DIM}"
  )
  print(f"{'':22} {'time':>10} {'memory':>10}  time/naive  memory/naive")
  kinds = {"selection": ["mean query"], "coarse": ["auto", "einsum", "dot_product", "blocked"]}
  for kind, implementations in kinds.items():
    naive = None
    for implementation in ["naive", *implementations]:
      row = f"{kind} {implementation}"
      time, peak = in_fresh_process(row)
      values = time, max(peak - baseline, 0)
      naive = naive or values
      time_ratio, memory_ratio = (a / b for a, b in zip(values, naive, strict=True))
      print(
        f"{row:22} {1e3 * values[0]:7.1f} ms {values[1] / 1e6:7.1f} MB"
        f"  {time_ratio:10.3f}  {memory_ratio:12.3f}",
        flush=True,
      )


def compare_sizes(options):
  import jax
  import numpy as np

  import pst_jax
  from pst_jax import ops
  from pst_jax.ops.kernels.choice import choose

  def compiled(implementation, with_gradients):
    def run(q, k, v):
      def attend(q, k, v):
        return ops.coarse_attention(q, k, v, implementation=implementation)

      return jax.vjp(attend, q, k, v)[1](q) if with_gradients else attend(q, k, v)

    return jax.jit(run, compiler_options=pst_jax.compiler_options())

  def run_to_the_end(step, rows):
    jax.block_until_ready(step(*rows))

  print(f"batch {BATCH}, {HEADS} heads of {DIM}; ratios are blocked / einsum")
  print(f"{'queries':>8} {'tokens':>7}  inference  gradients  auto")
  rng = np.random.default_rng(0)
  for queries, tokens in SIZES:
    rows = [
      jax.device_put(rng.standard_normal((BATCH, count, HEADS, DIM), np.float32))
      for count in (queries, tokens, tokens)
    ]
    ratios = []
    for with_gradients in (False, True):
      steps = [compiled(name, with_gradients) for name in ("blocked", "einsum")]
      runs = [functools.partial(run_to_the_end, step, rows) for step in steps]
      ratios.append(measure(*runs, options.repeats)[2])
    taken = choose(jax.default_backend(), queries, tokens)
    print(f"{queries:8} {tokens:7}  {ratios[0]:9.2f}  {ratios[1]:9.2f}  {taken}", flush=True)


def main():
  parser = make_parser(__doc__)
  parser.add_argument("--side", type=int, default=80, help="side of the fine map, an even number")
  parser.add_argument("--repeats", type=int, default=11, help="timed repetitions")
  parser.add_argument("--quick", action="store_true", help="two repetitions")
  parser.add_argument("--sizes", action="store_true", help="compare forms at several sizes")
  options = parser.parse_args()
  if options.quick:
    options.repeats = 2
  tune_allocator()
  (compare_sizes if options.sizes else compare)(options)


if __name__ == "__main__":
  main()
