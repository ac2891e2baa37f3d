"""What inference of a network costs on this machine, with and without its fine branch."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pst_jax.compiler import compiler_options
from pst_jax.fold import fold_batch_norm
from pst_jax.models import create_model


class Variant(NamedTuple):
  """How the fine branch is set; 0 tokens: it is off."""

  top_k: int
  selection: str = "top_k"


class Cost(NamedTuple):
  """Of a variant.

  Attributes:
    seconds: per image, the median of all rounds.
    memory: bytes of parameters, images, outputs and all that is held between, by the compiler.
  """

  variant: Variant
  seconds: float
  memory: int


def measure(
  model: str,
  variants: Sequence[Variant],
  *,
  batch_size: int,
  options: Mapping[str, Any] | None = None,
  image_size: int,
  dtype: str = "float32",
  rounds: int = 10,
) -> list[Cost]:
  """Times a network with random weights, its BatchNorm folded in, as it is used.

  The variants take turns in every round, so that all of them see the same machine.

  Args:
    options: further ones of `create_model`, such as the width.

  Raises:
    UserError: there is no such network or rule, or the images are too small for a top_k.
  """
  shape = (batch_size, image_size, image_size, 3)
  images = jax.random.uniform(jax.random.key(0), shape, dtype)
  options = {"dtype": jnp.dtype(dtype), **(options or {})}
  networks = [create_model(model, **options, **variant._asdict()) for variant in variants]
  init = jax.jit(networks[0].init, compiler_options=compiler_options())
  variables = init({"params": jax.random.key(1), "selection": jax.random.key(2)}, images[:1])
  programs = []
  for network in networks:
    folded, folded_variables = fold_batch_norm(network, variables)
    programs.append((_compiled(folded, folded_variables, images), folded_variables))
  times = [
    [_seconds(program, values, images) for program, values in programs] for _ in range(rounds)
  ]
  medians = (statistics.median(each) / batch_size for each in zip(*times, strict=True))
  memories = (_memory(program) for program, _ in programs)
  return list(map(Cost, variants, medians, memories))


def _compiled(network, variables, images):
  def run(variables, images):
    return network.apply(variables, images, rngs={"selection": jax.random.key(2)})

  program = jax.jit(run).lower(variables, images).compile(compiler_options())
  jax.block_until_ready(program(variables, images))
  return program


def _seconds(program, variables, images) -> float:
  start = time.perf_counter()
  jax.block_until_ready(program(variables, images))
  return time.perf_counter() - start


def _memory(program) -> int:
  facts = program.memory_analysis()
  parts = ("argument", "output", "temp")
  return sum(getattr(facts, f"{part}_size_in_bytes") for part in parts)
