"""Compiles the training step of a config for a slice of TPUs."""

import dataclasses
import re
import sys
import threading
import time

import jax
import jax.numpy as jnp

from train import sharding
from train.config import Config, ConfigError
from train.planning.hlo_cost import Program, read_program
from train.planning.hlo_text import parse
from train.setup import Setup, make_setup

_PLAIN_SECONDS = 10.0
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device's HBM, as the compiler says.

  Attributes:
    arguments: state and batch.
    outputs: beyond those that take the place of arguments.
    temporaries: what the step allocates for itself.
    code: of the program.
    peak: most in use at once, without the program's code.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int
  peak: int

  @property
  def total(self) -> int:
    held = self.arguments + self.outputs + self.temporaries
    # Where the step itself takes little, the peak holds more than these.
    return max(held, self.peak) + self.code


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """Attributes:
  setup: of the run.
  program: what a device does in a step; None: the step does not fit, so there is none.
  memory: None if it does not fit.
  needed: bytes of HBM that the compiler asked for when it did not fit.
  seconds: that tracing and compiling took.
  """

  setup: Setup
  program: Program | None
  memory: Memory | None
  needed: int | None
  seconds: float

  @property
  def fits(self) -> bool:
    return self.memory is not None


def compile_step(config: Config, num_classes: int, num_train: int, devices: list) -> CompiledStep:
  """Compiles the step and reads the result; shows the seconds meanwhile.

  Raises:
    ConfigError: a config that cannot be trained, or that the compiler refuses.
  """
  started = time.monotonic()
  setup = make_setup(config, num_classes, num_train, devices)
  with _Progress(f"compiling {config.model.name} for {len(devices)} devices"):
    try:
      compiled = _in_thread(lambda: _lower(setup).compile())
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


def _lower(setup: Setup):
  config, place = setup.config, sharding.batch_sharding(setup.mesh)
  size = config.data.image_size
  batch = {
    "image": jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8, sharding=place),
    "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32, sharding=place),
  }
  return setup.train_step.lower(setup.abstract_state, batch)


def _needed(message: str) -> int:
  """Bytes that a message of the compiler says are missing.

  Raises:
    ConfigError: the message is about something else.
  """
  found = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message)
  if not found:
    raise ConfigError(f"the TPU compiler refuses the step: {message.splitlines()[0]}")
  return round(float(found[1]) * _SIZES[found[2]])


def _in_thread(work):
  """The result of `work`, which may hold on to its thread, while this one answers to Ctrl-C."""
  outcome = {}

  def run():
    try:
      outcome["result"] = work()
    except BaseException as error:
      outcome["error"] = error

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  while thread.is_alive():
    thread.join(timeout=0.2)
  if "error" in outcome:
    raise outcome["error"]
  return outcome["result"]


class _Progress:
  """A line with the seconds so far: on a terminal in place, elsewhere one every ten seconds."""

  def __init__(self, title: str):
    self._title, self._done = title, threading.Event()
    self._in_place = sys.stderr.isatty()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def __enter__(self):
    self._started = time.monotonic()
    self._thread.start()

  def __exit__(self, *_):
    self._done.set()
    self._thread.join()
    if self._in_place:
      print(f"\r{' ' * (len(self._title) + 12)}\r", end="", file=sys.stderr, flush=True)

  def _run(self):
    start, end = ("\r", "") if self._in_place else ("", "\n")
    while not self._done.wait(1.0 if self._in_place else _PLAIN_SECONDS):
      seconds = time.monotonic() - self._started
      line = f"{start}{self._title}: {seconds:.0f} s"
      print(line, end=end, file=sys.stderr, flush=True)
