"""XLA options for the CPU: in force where they are known, absent where they are not."""

import jax

import pst_jax
from pst_jax import compiler


def test_the_installed_jaxlib_takes_the_measured_options():
  # An option or value that it does not know is dropped without a word: nothing else would tell.
  assert pst_jax.compiler_options("cpu") == compiler._MEASURED["cpu"]


def test_an_unknown_option_is_left_out(monkeypatch):
  monkeypatch.setitem(compiler._MEASURED, "cpu", {"xla_no_such_option": "1"})
  compiler.compiler_options.cache_clear()
  assert pst_jax.compiler_options("cpu") == {}
  compiler.compiler_options.cache_clear()


def test_a_platform_without_measured_options_has_none():
  assert pst_jax.compiler_options("tpu") == {}


def test_the_options_compile_a_function():
  double = jax.jit(lambda x: 2 * x, compiler_options=pst_jax.compiler_options())
  assert double(3) == 6
