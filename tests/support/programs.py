"""Programs and steps as the compiler could give them, with round figures."""

import types

import jax
import jax.numpy as jnp

from train.config import Config, ModelConfig
from train.planning.compiling import CompiledStep, Memory
from train.planning.hlo_cost import Collective, Operation, Program

GIB = 2**30


def operation(name="work", flops=0, read=0, written=0, collectives=(), count=1):
  return Operation(name, f"jit(step)/{name}", flops, read, written, 1500, collectives, count)


def program(*operations):
  return Program(operations, ())


def step(work: Program | None, memory: Memory | None = None, needed: int | None = None):
  """A compiled step of 16 chips with 4,096 images, ten epochs of 100 steps."""
  setup = types.SimpleNamespace(
    config=Config(epochs=10, batch_size=4096, model=ModelConfig(name="r50-cls-pst")),
    steps_per_epoch=100.0,
    total_steps=1000,
    # 300 MB of state and one image of 100 bytes for each of the batch.
    abstract_state={"params": jax.ShapeDtypeStruct((75_000_000,), jnp.float32)},
    abstract_batch={"image": jax.ShapeDtypeStruct((4096, 100), jnp.uint8)},
  )
  return CompiledStep(setup, work, memory, needed, seconds=12.3)


ALL_REDUCE = Collective("all-reduce", 100_000_000, 0)
FITTING = Memory(GIB, 0, 2 * GIB, GIB, 3 * GIB)
