"""Compiles the training step of a config for a slice of chips."""

import concurrent.futures
import dataclasses
import re
import sys
import threading
import time
from collections.abc import Callable

import jax

from pst_jax.compiler import known_options
from pst_jax.errors import UserError
from train.planning.hlo_cost import Program, read_program
from train.planning.hlo_text import parse
from train.schema import Config
from train.setup import Setup, make_setup

# For CPUs, whose machine code nobody runs: what is read comes before it.
_QUICK = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
}
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device's HBM, as the compiler says."""

  arguments: int  # state and batch
  outputs: int  # beyond those that take the place of arguments
  temporaries: int  # what the step allocates for itself
  code: int  # of the program
  peak: int  # most in use at once, without the program's code

  @property
  def total(self) -> int:
    held = self.arguments + self.outputs + self.temporaries
    # Where the step itself takes little, the peak holds more than these.
    return max(held, self.peak) + self.code


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """What the compiler made of a training step."""

  setup: Setup
  program: Program | None  # what a device does in a step; None: it does not fit
  memory: Memory | None  # None: it does not fit
  needed: int | None  # bytes of HBM that the compiler asked for when it did not fit
  seconds: float  # that tracing and compiling took

  @property
  def fits(self) -> bool:
    return self.memory is not None


def limit(step: CompiledStep, topology) -> CompiledStep:
  """The step, as one that does not fit where that is so and the compiler does not say it."""
  usable = topology.chip.usable_bytes / topology.chip.devices
  if not step.fits or topology.knows_memory or step.memory.total <= usable:
    return step
  return dataclasses.replace(step, program=None, memory=None, needed=step.memory.total)


def compile_step(config: Config, num_classes: int, num_train: int, devices: list) -> CompiledStep:
  """Compiles the step and reads the result; shows the seconds meanwhile.

  Raises:
    UserError: a config that cannot be trained, or that the compiler refuses.
  """
  started = time.monotonic()
  setup = make_setup(config, num_classes, num_train, devices)
  title = f"compiling {config.model.name} for {len(devices)} devices"

  def work():
    lowered = setup.train_step.lower(setup.abstract_state, setup.abstract_batch)
    on_cpu = devices[0].platform == "cpu"
    return lowered.compile(known_options("cpu", _QUICK) if on_cpu else None)

  try:
    compiled = _with_progress(title, work)
  except jax.errors.JaxRuntimeError as error:
    needed = _needed(str(error))
    return CompiledStep(setup, None, None, needed, time.monotonic() - started)
  program = read_program(parse(compiled.as_text()))
  stats = compiled.memory_analysis()
  memory = Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
    peak=stats.peak_memory_in_bytes,
  )
  return CompiledStep(setup, program, memory, None, time.monotonic() - started)


def _needed(message: str) -> int:
  """Bytes that a message of the compiler says are missing.

  Raises:
    UserError: the message is about something else.
  """
  found = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message)
  if not found:
    raise UserError(f"the TPU compiler refuses the step: {message.splitlines()[0]}")
  return round(float(found[1]) * _SIZES[found[2]])


def _with_progress(title: str, work: Callable):
  """The result of `work`, in a thread, since the compiler does not answer to Ctrl-C.

  Shows the seconds so far: on a terminal in place, elsewhere a line every ten seconds.
  """
  result = concurrent.futures.Future()

  def run():
    try:
      result.set_result(work())
    except BaseException as error:
      result.set_exception(error)

  in_place, started = sys.stderr.isatty(), time.monotonic()
  start, end, every = ("\r", "", 1.0) if in_place else ("", "\n", 10.0)
  threading.Thread(target=run, daemon=True).start()
  while not concurrent.futures.wait([result], timeout=every).done:
    seconds = time.monotonic() - started
    print(f"{start}{title}: {seconds:.0f} s", end=end, file=sys.stderr, flush=True)
  if in_place:
    print(f"\r{' ' * (len(title) + 12)}\r", end="", file=sys.stderr, flush=True)
  return result.result()
