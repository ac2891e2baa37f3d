"""`jax.jit` for tests: networks compile about five times faster, and run slower."""

import jax

import pst_jax

_WANTED = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
}


def is_known(name, value):
  """Whether the installed jaxlib knows an option of its compiler."""
  try:
    jax.jit(lambda x: x, compiler_options={name: value}).lower(0).compile()
  except Exception:
    return False
  return True


_KNOWN = {name: value for name, value in _WANTED.items() if is_known(name, value)}
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in _KNOWN.items())
"""The same as words of XLA_FLAGS, for processes."""
OPTIONS = pst_jax.compiler_options() | _KNOWN
"""For what runs once: it takes up to ten times as long."""
STEP_OPTIONS = OPTIONS | {"xla_backend_optimization_level": 1}
"""For what runs several times."""
STEP_FLAGS = FLAGS.replace("level=0", "level=1")


def quick_jit(function, **arguments):
  return jax.jit(function, compiler_options=OPTIONS, **arguments)
